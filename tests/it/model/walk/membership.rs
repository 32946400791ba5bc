//! `gateway.v1.Membership`: many clients at once, and everything about one.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, SystemTime},
};

use gateway_websocket::grpc::proto::v1::{
    ApplyMessage, ApplyRequest, BindRequest, DissolveRequest, Failure, GetAttributesRequest,
    JoinRequest, LeaveRequest, SetAttributesRequest, UnbindRequest,
    apply_request::{Expiry, UidChange},
    membership_client::MembershipClient,
};
use prost_types::Timestamp;
use tonic::{Code, transport::Channel};

use super::{
    Walk,
    draw::{is_id, is_valid_change, said},
    outcome,
    send::numbers,
};
use crate::model::{
    GROUPS_PER_CLIENT,
    queue::Terms,
    world::{Attributes, Facts, Numbers, Refused, is_name},
};

#[derive(Debug)]
pub enum Change {
    Bind(BindRequest),
    Unbind(UnbindRequest),
    Join(JoinRequest),
    Leave(LeaveRequest),
    Dissolve(DissolveRequest),
    SetAttributes(SetAttributesRequest),
    GetAttributes(GetAttributesRequest),
    Apply(ApplyRequest),
}

/// What changes of many clients came to: what each was and is, and what failed.
struct Outcome {
    changes: Vec<(Facts, Facts)>,
    failures: Vec<(String, i32)>,
}

/// When a client is to be closed, in minutes from now. The clock that the test moves is never within
/// minutes of such a time, so nothing depends on how long a call takes.
const PAST: i64 = -1;
const IN_AN_HOUR: i64 = 60;
const IN_THREE: i64 = 180;

impl Walk {
    pub(super) fn any_change(&mut self, number: u64) -> Change {
        let (clients, uids) = match self.random.below(6) {
            0..3 => (vec![self.id()], Vec::new()),
            3 => (Vec::new(), self.names('u', 3)),
            _ => (self.ids(4), self.names('u', 3)),
        };
        match self.random.below(100) {
            0..14 => Change::Bind(BindRequest { uid: self.name('u'), clients, uids }),
            14..18 => Change::Unbind(UnbindRequest { clients, uids }),
            18..34 => {
                let most = if self.random.once_in(20) { GROUPS_PER_CLIENT + 3 } else { 4 };
                Change::Join(JoinRequest { groups: self.names('g', most), clients, uids })
            }
            34..44 => Change::Leave(LeaveRequest { groups: self.names('g', 4), clients, uids }),
            44..47 => Change::Dissolve(DissolveRequest { groups: self.names('g', 3) }),
            47..60 => {
                let change = (!self.random.once_in(30)).then(|| self.attribute_change());
                Change::SetAttributes(SetAttributesRequest { change, clients, uids })
            }
            60..66 => Change::GetAttributes(GetAttributesRequest { client: self.id() }),
            _ => Change::Apply(self.apply_request(number)),
        }
    }

    fn apply_request(&mut self, number: u64) -> ApplyRequest {
        let most = if self.random.once_in(20) { GROUPS_PER_CLIENT + 3 } else { 4 };
        ApplyRequest {
            client: self.id(),
            uid_change: match self.random.below(8) {
                0..4 => Some(UidChange::Bind(self.name('u'))),
                4 => Some(UidChange::Unbind(self.random.once_in(2))),
                _ => None,
            },
            leave: self.names('g', 4),
            join: self.names('g', most),
            attributes: self.random.once_in(2).then(|| self.attribute_change()),
            messages: (0..self.random.below(4).saturating_sub(1))
                .map(|_| ApplyMessage { message: self.modern_message(number, true) })
                .collect(),
            expiry: match self.random.below(30) {
                0 => Some(expires_in(PAST)),
                1 | 2 => Some(expires_in(IN_AN_HOUR)),
                3 | 4 => Some(expires_in(IN_THREE)),
                5 => Some(Expiry::NeverExpires(self.random.once_in(2))),
                _ => None,
            },
        }
    }

    fn memberships(&self) -> MembershipClient<Channel> {
        MembershipClient::new(self.gateway.channel())
    }

    pub(super) async fn change(&mut self, change: Change) {
        let mut calls = self.memberships();
        match change {
            Change::Bind(request) => {
                let answer = outcome(calls.bind(request.clone()).await);
                let BindRequest { uid, clients, uids } = request;
                let outcome = self.change_each(is_name(&uid), (&clients, &uids), |facts| {
                    facts.uid = Some(uid.clone());
                });
                let answer = answer.map(|it| (it.changed, told(it.failures)));
                assert_eq!(
                    answer,
                    outcome.map(|it| (it.count(|a, b| a.uid != b.uid), it.failures))
                );
            }
            Change::Unbind(request) => {
                let answer = outcome(calls.unbind(request.clone()).await);
                let UnbindRequest { clients, uids } = request;
                let outcome = self.change_each(true, (&clients, &uids), |facts| facts.uid = None);
                let answer = answer.map(|it| (it.changed, told(it.failures)));
                assert_eq!(
                    answer,
                    outcome.map(|it| (it.count(|a, b| a.uid != b.uid), it.failures))
                );
            }
            Change::Join(request) => {
                let answer = outcome(calls.join(request.clone()).await);
                let JoinRequest { groups, clients, uids } = request;
                let valid = (1..=GROUPS_PER_CLIENT).contains(&groups.len()) && are_names(&groups);
                let outcome = self.change_each(valid, (&clients, &uids), |facts| {
                    facts.groups.extend(groups.iter().cloned());
                });
                let answer = answer.map(|it| (it.joined, told(it.failures)));
                assert_eq!(answer, outcome.map(|it| (it.sum(joined), it.failures)));
            }
            Change::Leave(request) => {
                let answer = outcome(calls.leave(request.clone()).await);
                let LeaveRequest { groups, clients, uids } = request;
                let valid = !groups.is_empty() && are_names(&groups);
                let outcome = self.change_each(valid, (&clients, &uids), |facts| {
                    facts.groups.retain(|group| !groups.contains(group));
                });
                let answer = answer.map(|it| (it.left, told(it.failures)));
                let left = |before: &Facts, after: &Facts| joined(after, before);
                assert_eq!(answer, outcome.map(|it| (it.sum(left), it.failures)));
            }
            Change::Dissolve(request) => {
                let answer = outcome(calls.dissolve(request.clone()).await);
                let answer = answer.map(|it| (it.dissolved, it.left));
                assert_eq!(answer, self.dissolve(&request.groups));
            }
            Change::SetAttributes(request) => {
                let answer = outcome(calls.set_attributes(request.clone()).await);
                let SetAttributesRequest { change, clients, uids } = request;
                let valid = change.as_ref().is_some_and(is_valid_change);
                let change = change.unwrap_or_default();
                let outcome = self.change_each(valid, (&clients, &uids), |facts| {
                    facts.retouch(&change);
                });
                let answer = answer.map(|it| (it.changed, told(it.failures)));
                let changed = |a: &Facts, b: &Facts| a.attributes != b.attributes;
                assert_eq!(answer, outcome.map(|it| (it.count(changed), it.failures)));
            }
            Change::GetAttributes(request) => {
                let answer = outcome(calls.get_attributes(request.clone()).await);
                let answer = answer.map(|it| it.attributes.into_iter().collect::<Attributes>());
                let expected = match self.world.facts(&request.client) {
                    _ if !is_id(&request.client) => Err(Code::InvalidArgument),
                    None => Err(Code::NotFound),
                    Some(facts) => Ok(facts.attributes.clone()),
                };
                assert_eq!(answer, expected);
            }
            Change::Apply(request) => {
                let answer = outcome(calls.apply(request.clone()).await);
                let answer =
                    answer.map(|it| (it.uid_changed, it.left, it.joined, numbers(it.delivery)));
                assert_eq!(answer, self.apply(&request));
                if matches!(request.expiry, Some(Expiry::ExpiresAt(_))) {
                    // What is due already is done when the clock goes on.
                    self.pass(100).await;
                }
            }
        }
    }

    /// Changes each of the clients and of the users' clients, once; nothing if the rest of the
    /// request is not valid.
    fn change_each(
        &mut self,
        valid: bool,
        (clients, uids): (&[String], &[String]),
        change: impl Fn(&mut Facts),
    ) -> Result<Outcome, Code> {
        let names_some = !(clients.is_empty() && uids.is_empty());
        if !valid || !names_some || !clients.iter().all(|id| is_id(id)) || !are_names(uids) {
            return Err(Code::InvalidArgument);
        }
        let of_uids: Vec<_> = uids.iter().map(|uid| self.world.clients_of(uid)).collect();
        let mut refused = BTreeMap::new();
        let mut outcome = Outcome { changes: Vec::new(), failures: Vec::new() };
        for client in of_uids.iter().flatten().chain(clients).collect::<BTreeSet<_>>() {
            match self.world.change(client, &change) {
                Ok(changed) => outcome.changes.push(changed),
                Err(why) => drop(refused.insert(client, why)),
            }
        }
        for (index, client) in clients.iter().enumerate() {
            if let Some(why) = refused.get(client) {
                outcome.failures.push((format!("clients[{index}]"), code(*why).into()));
            }
        }
        for (index, of_uid) in of_uids.iter().enumerate() {
            let why = of_uid.iter().find_map(|client| refused.get(client).copied());
            if let Some(why) = why.or(of_uid.is_empty().then_some(Refused::Unknown)) {
                outcome.failures.push((format!("uids[{index}]"), code(why).into()));
            }
        }
        Ok(outcome)
    }

    fn dissolve(&mut self, groups: &[String]) -> Result<(i64, i64), Code> {
        if groups.is_empty() || !are_names(groups) {
            return Err(Code::InvalidArgument);
        }
        let members: Vec<_> = groups.iter().map(|group| self.world.dissolve(group)).collect();
        let dissolved = members.iter().filter(|members| **members > 0).count();
        Ok((count(dissolved), count(members.iter().sum())))
    }

    fn apply(&mut self, request: &ApplyRequest) -> Result<(bool, i64, i64, Numbers), Code> {
        let ApplyRequest { client, uid_change, leave, join, attributes, expiry, messages } =
            request;
        let said: Option<Vec<_>> = messages.iter().map(|it| said(it.message.as_ref())).collect();
        let has_good_uid = match uid_change {
            Some(UidChange::Bind(uid)) => is_name(uid),
            _ => true,
        };
        let has_good_groups =
            join.len() <= GROUPS_PER_CLIENT && are_names(join) && are_names(leave);
        let has_good_attributes = attributes.as_ref().is_none_or(is_valid_change);
        let is_good = is_id(client) && has_good_uid && has_good_groups && has_good_attributes;
        let (Some(said), true) = (said, is_good) else { return Err(Code::InvalidArgument) };
        let (mut left, mut came) = (0, 0);
        let now = self.world.now;
        let changed = self.world.change(client, |facts| {
            match uid_change {
                Some(UidChange::Bind(uid)) => facts.uid = Some(uid.clone()),
                Some(UidChange::Unbind(true)) => facts.uid = None,
                Some(UidChange::Unbind(false)) | None => {}
            }
            left = leave.iter().filter(|group| facts.groups.remove(*group)).count();
            came = join.iter().filter(|group| facts.groups.insert((*group).clone())).count();
            if let Some(change) = attributes {
                facts.retouch(change);
            }
            match expiry {
                Some(Expiry::ExpiresAt(at)) => {
                    facts.expires = Some(now + minutes_until(*at) * 60_000);
                    facts.expires_at = Some(*at);
                }
                Some(Expiry::NeverExpires(true)) => {
                    (facts.expires, facts.expires_at) = (None, None);
                }
                Some(Expiry::NeverExpires(false)) | None => {}
            }
        });
        let (before, after) = changed.map_err(code)?;
        let mut total = Numbers::default();
        for said in said {
            total += self.world.send(std::slice::from_ref(client), &said, &Terms::default());
        }
        Ok((before.uid != after.uid, count(left), count(came), total))
    }
}

impl Outcome {
    fn count(&self, changed: impl Fn(&Facts, &Facts) -> bool) -> i64 {
        count(self.changes.iter().filter(|(before, after)| changed(before, after)).count())
    }

    fn sum(&self, of: impl Fn(&Facts, &Facts) -> usize) -> i64 {
        count(self.changes.iter().map(|(before, after)| of(before, after)).sum())
    }
}

impl Facts {
    fn retouch(&mut self, change: &gateway_websocket::grpc::proto::v1::AttributeChange) {
        if change.replace {
            self.attributes.clear();
        }
        self.attributes.retain(|name, _| !change.remove.contains(name));
        self.attributes.extend(change.set.clone());
    }
}

fn expires_in(minutes: i64) -> Expiry {
    let span = Duration::from_mins(minutes.unsigned_abs());
    let now = SystemTime::now();
    Expiry::ExpiresAt(if minutes < 0 { now - span } else { now + span }.into())
}

/// None if it is past.
fn minutes_until(at: Timestamp) -> u64 {
    let span = SystemTime::try_from(at).unwrap().duration_since(SystemTime::now());
    // Some time has passed since that was drawn.
    (span.unwrap_or_default() + Duration::from_secs(30)).as_secs() / 60
}

fn joined(before: &Facts, after: &Facts) -> usize {
    after.groups.difference(&before.groups).count()
}

fn code(why: Refused) -> Code {
    match why {
        Refused::Unknown => Code::NotFound,
        Refused::Limit => Code::FailedPrecondition,
    }
}

fn told(failures: Vec<Failure>) -> Vec<(String, i32)> {
    failures.into_iter().map(|failure| (failure.field, failure.code)).collect()
}

fn are_names(texts: &[String]) -> bool {
    texts.iter().all(|text| is_name(text))
}

fn count(number: usize) -> i64 {
    i64::try_from(number).unwrap()
}
