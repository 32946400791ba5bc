//! `gateway.v1.Membership`: users, groups and attributes of clients.

use std::{collections::HashMap, time::SystemTime};

use tonic::{Request, Response, Status};

use super::{
    V1, connections,
    convert::{Reading, Whom},
    count, fault,
    proto::{
        ApplyRequest, ApplyResponse, BindRequest, BindResponse, DissolveRequest, DissolveResponse,
        Failure, GetAttributesRequest, GetAttributesResponse, JoinRequest, JoinResponse,
        LeaveRequest, LeaveResponse, SetAttributesRequest, SetAttributesResponse, UnbindRequest,
        UnbindResponse,
        apply_request::{Expiry, UidChange},
        membership_server::Membership,
    },
};
use crate::{
    access::{AUDIT, Caller},
    change::{self, Change, Changed, Refusal, Subject},
    ids::{ClientId, Name},
};

type Answer<T> = Result<Response<T>, Status>;

#[tonic::async_trait]
impl Membership for V1 {
    async fn bind(&self, request: Request<BindRequest>) -> Answer<BindResponse> {
        let (config, request) = (self.live.snapshot(), request.into_inner());
        let mut reading = Reading::new(&config);
        let uid = reading.name("uid", &request.uid);
        let whom = reading.whom(&request.clients, &request.uids);
        let uid = reading.done(uid)?;
        let Outcome { changed, failures, .. } = self.change(whom, Change::uid(Some(uid))).await?;
        Ok(Response::new(BindResponse { changed, failures }))
    }

    async fn unbind(&self, request: Request<UnbindRequest>) -> Answer<UnbindResponse> {
        let (config, request) = (self.live.snapshot(), request.into_inner());
        let mut reading = Reading::new(&config);
        let whom = reading.whom(&request.clients, &request.uids);
        let whom = reading.done(Some(whom))?;
        let Outcome { changed, failures, .. } = self.change(whom, Change::uid(None)).await?;
        Ok(Response::new(UnbindResponse { changed, failures }))
    }

    async fn join(&self, request: Request<JoinRequest>) -> Answer<JoinResponse> {
        let (config, request) = (self.live.snapshot(), request.into_inner());
        let mut reading = Reading::new(&config);
        let limit = ("limits.groups_per_client", config.limits.groups_per_client);
        let groups = reading.groups("groups", &request.groups, limit);
        let whom = reading.whom(&request.clients, &request.uids);
        let whom = reading.done(Some(whom))?;
        let Outcome { joined, failures, .. } = self.change(whom, Change::join(groups)).await?;
        Ok(Response::new(JoinResponse { joined, failures }))
    }

    async fn leave(&self, request: Request<LeaveRequest>) -> Answer<LeaveResponse> {
        let (config, request) = (self.live.snapshot(), request.into_inner());
        let mut reading = Reading::new(&config);
        let limit = ("api.max_targets", config.api.max_targets);
        let groups = reading.groups("groups", &request.groups, limit);
        let whom = reading.whom(&request.clients, &request.uids);
        let whom = reading.done(Some(whom))?;
        let Outcome { left, failures, .. } = self.change(whom, Change::leave(groups)).await?;
        Ok(Response::new(LeaveResponse { left, failures }))
    }

    async fn dissolve(&self, request: Request<DissolveRequest>) -> Answer<DissolveResponse> {
        let config = self.live.snapshot();
        let (_, extensions, request) = request.into_parts();
        let mut reading = Reading::new(&config);
        let limit = ("api.max_targets", config.api.max_targets);
        let mut groups = reading.groups("groups", &request.groups, limit);
        groups.sort_unstable();
        groups.dedup();
        let groups = reading.done(Some(groups))?;
        // Before it is done, since a caller who hangs up afterwards must not go unnamed.
        tracing::info!(
            target: AUDIT, caller = extensions.get::<Caller>().map(tracing::field::display),
            call = "Membership.Dissolve", groups = connections::few(&request.groups),
            "groups are dissolved"
        );
        let members = self.hub.dissolve(groups).await.map_err(|error| fault::status(&error))?;
        Ok(Response::new(DissolveResponse {
            dissolved: count(members.iter().filter(|members| **members > 0).count()),
            left: count(members.iter().sum()),
        }))
    }

    async fn apply(&self, request: Request<ApplyRequest>) -> Answer<ApplyResponse> {
        let (config, request) = (self.live.snapshot(), request.into_inner());
        let mut reading = Reading::new(&config);
        let client = reading.client("client", &request.client);
        let change = reading.change(request);
        let client = reading.done(client)?;
        let changed = self.hub.change(client, change).await;
        let changed = changed.map_err(|error| fault::status(&error))?;
        Ok(Response::new(ApplyResponse {
            uid_changed: changed.uid,
            left: count(changed.left),
            joined: count(changed.joined),
            delivery: Some(changed.receipt.into()),
        }))
    }

    async fn get_attributes(
        &self,
        request: Request<GetAttributesRequest>,
    ) -> Answer<GetAttributesResponse> {
        let config = self.live.snapshot();
        let mut reading = Reading::new(&config);
        let client = reading.client("client", &request.into_inner().client);
        let client = reading.done(client)?;
        let attributes = self.hub.attributes_of(client).await;
        let attributes = attributes.map_err(|error| fault::status(&error))?;
        let pairs = attributes.iter().map(|(name, value)| (name.to_owned(), value.to_owned()));
        Ok(Response::new(GetAttributesResponse { attributes: pairs.collect() }))
    }

    async fn set_attributes(
        &self,
        request: Request<SetAttributesRequest>,
    ) -> Answer<SetAttributesResponse> {
        let (config, request) = (self.live.snapshot(), request.into_inner());
        let mut reading = Reading::new(&config);
        if request.change.is_none() {
            reading.fault("change", "missing");
        }
        let change = request.change.map(|change| reading.retouch("change", change));
        let whom = reading.whom(&request.clients, &request.uids);
        let change = Change { attributes: Some(reading.done(change)?), ..Change::default() };
        let Outcome { changed, failures, .. } = self.change(whom, change).await?;
        Ok(Response::new(SetAttributesResponse { changed, failures }))
    }
}

impl Reading<'_> {
    /// All that is to be changed about one client.
    pub(super) fn change(&mut self, request: ApplyRequest) -> Change {
        let most_targets = ("api.max_targets", self.config().api.max_targets);
        let most_groups = ("limits.groups_per_client", self.config().limits.groups_per_client);
        Change {
            uid: match request.uid_change {
                Some(UidChange::Bind(uid)) => self.name("bind", &uid).map(Some),
                Some(UidChange::Unbind(true)) => Some(None),
                Some(UidChange::Unbind(false)) | None => None,
            },
            leave: self.up_to("leave", &request.leave, most_targets),
            join: self.up_to("join", &request.join, most_groups),
            attributes: request.attributes.map(|change| self.retouch("attributes", change)),
            expires: match request.expiry {
                Some(Expiry::ExpiresAt(at)) => {
                    let at = self.time("expires_at", at);
                    at.map(|at| Some(change::Expiry::at(at, SystemTime::now())))
                }
                Some(Expiry::NeverExpires(true)) => Some(None),
                Some(Expiry::NeverExpires(false)) | None => None,
            },
            messages: self.messages(request.messages),
        }
    }
}

/// What became of a change of many clients.
#[derive(Default)]
struct Outcome {
    /// Clients whose uid or attributes are others now.
    changed: i64,
    joined: i64,
    left: i64,
    failures: Vec<Failure>,
}

/// The clients to be changed, each once, and where in the request they were named.
struct Subjects {
    all: Vec<Subject>,
    /// For each client that was named by its id, in order: which of them all it is.
    clients: Vec<usize>,
    /// The users, in order.
    uids: Vec<Name>,
    /// For each user: which of them all are its clients.
    users: HashMap<Name, Vec<usize>>,
}

impl V1 {
    /// Changes each of the clients; tells item by item for whom it could not be done.
    async fn change(&self, whom: Whom, change: Change) -> Result<Outcome, Status> {
        let subjects = self.subjects(whom).await?;
        let results = self.hub.change_many(&subjects.all, change).await;
        let results = results.map_err(|error| fault::status(&error))?;
        let mut outcome = Outcome { failures: subjects.failures(&results), ..Outcome::default() };
        for changed in results.iter().flatten() {
            outcome.changed += i64::from(changed.uid || changed.attributes);
            outcome.joined += count(changed.joined);
            outcome.left += count(changed.left);
        }
        Ok(outcome)
    }

    async fn subjects(&self, Whom { clients, uids }: Whom) -> Result<Subjects, Status> {
        let mut all = Vec::with_capacity(clients.len());
        let mut known: HashMap<ClientId, usize> = HashMap::new();
        let mut position = |client, of: Option<&Name>| {
            *known.entry(client).or_insert_with(|| {
                all.push(Subject { client, of: of.cloned() });
                all.len() - 1
            })
        };
        // Who is named by its id is changed whoever it belongs to.
        let clients = clients.into_iter().map(|client| position(client, None)).collect();
        let mut each: Vec<_> = uids.clone();
        each.sort_unstable();
        each.dedup();
        let of_each = self.hub.clients_of_each(&each).await;
        let of_each = of_each.map_err(|error| fault::status(&error))?;
        let mut users = HashMap::new();
        for (uid, clients) in each.into_iter().zip(of_each) {
            let clients = clients.into_iter().map(|client| position(client, Some(&uid))).collect();
            users.insert(uid, clients);
        }
        Ok(Subjects { all, clients, uids, users })
    }
}

impl Subjects {
    /// At most one failure for each item, however many clients a user has.
    fn failures(&self, results: &[Result<Changed, Refusal>]) -> Vec<Failure> {
        let of_clients = self.clients.iter().enumerate().filter_map(|(index, &at)| {
            let refusal = results[at].as_ref().err()?;
            Some(fault::failure(format!("clients[{index}]"), refusal))
        });
        let of_users: HashMap<&Name, Refused> =
            self.users.iter().filter_map(|(uid, at)| Some((uid, refused(at, results)?))).collect();
        let of_uids = self.uids.iter().enumerate().filter_map(|(index, uid)| {
            let refused = of_users.get(uid)?;
            Some(refused.failure(format!("uids[{index}]"), &self.all))
        });
        of_clients.chain(of_uids).collect()
    }
}

/// What could not be done for a user.
struct Refused<'a> {
    why: &'a Refusal,
    /// Which of the clients, if there was one, and how many others.
    client: Option<usize>,
    others: usize,
}

/// What could not be done for the user whose clients stand there; one that is gone meanwhile is no
/// failure as long as there is another.
fn refused<'a>(at: &[usize], results: &'a [Result<Changed, Refusal>]) -> Option<Refused<'a>> {
    let gone = |at: usize| matches!(results[at], Err(Refusal::UnknownClient));
    if at.iter().all(|&at| gone(at)) {
        return Some(Refused { why: &Refusal::UnknownClient, client: None, others: 0 });
    }
    let refusal = |&at: &usize| results[at].as_ref().err().filter(|_| !gone(at)).map(|it| (at, it));
    let mut refusals = at.iter().filter_map(refusal);
    let (client, why) = refusals.next()?;
    Some(Refused { why, client: Some(client), others: refusals.count() })
}

impl Refused<'_> {
    fn failure(&self, field: String, subjects: &[Subject]) -> Failure {
        let failure = fault::failure(field, self.why);
        let Some(client) = self.client else {
            return Failure { message: "no client has this uid".to_owned(), ..failure };
        };
        let client = subjects[client].client;
        let others = match self.others {
            0 => String::new(),
            1 => " (and 1 more client of this user)".to_owned(),
            others => format!(" (and {others} more clients of this user)"),
        };
        Failure { message: format!("{client}: {}{others}", failure.message), ..failure }
    }
}
