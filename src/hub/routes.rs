//! From a target to the shards that it concerns, and to whom it means on each.

use std::sync::Arc;

use smallvec::{SmallVec, smallvec};

use super::Hub;
use crate::{
    directory::Look,
    ids::{ClientId, Name},
    message::{Selection, Target},
    shard::{Clients, Picked},
};

/// The shards concerned, each once, and whom of their clients.
pub(super) type Routes = SmallVec<[(usize, Clients); 4]>;

impl Hub {
    /// Which shards a target concerns, and which clients on each.
    pub(super) fn routes(&self, target: &Target) -> Routes {
        let look = || self.0.directory.one_look();
        match target {
            Target::All => (0..self.0.shards.len()).map(|shard| (shard, Clients::All)).collect(),
            Target::Client(client) => self.route(*client).into_iter().collect(),
            Target::User(uid) => {
                let mut clients = look().clients_of(uid.as_str());
                clients.sort_unstable_by_key(|client| client.shard());
                let same_shard = clients.chunk_by(|a, b| a.shard() == b.shard());
                same_shard
                    .map(|clients| {
                        let shard = usize::from(clients[0].shard());
                        (shard, Clients::OfUser(clients.to_vec(), uid.clone()))
                    })
                    .collect()
            }
            Target::Group(group) => {
                let shards = look().shards_of(group.as_str()).into_iter();
                shards.map(|shard| (usize::from(shard), Clients::Group(group.clone()))).collect()
            }
            Target::Selection(selection) => self.parts(selection, &look()),
        }
    }

    /// The shard that an id names; none if this gateway has no such shard.
    pub(super) fn route(&self, client: ClientId) -> Option<(usize, Clients)> {
        let shard = usize::from(client.shard());
        (shard < self.0.shards.len()).then(|| (shard, Clients::These(smallvec![client])))
    }

    /// What a selection means on each shard; nothing for shards that it doesn't concern.
    fn parts(&self, selection: &Arc<Selection>, look: &Look<'_>) -> Routes {
        /// What one shard has of it.
        #[derive(Clone, Default)]
        struct Part {
            clients: Vec<ClientId>,
            of_users: Vec<ClientId>,
            has_members: bool,
        }
        let mut parts = vec![Part::default(); self.0.shards.len()];
        for &client in &selection.clients {
            // No other gateway's client is one of ours.
            if let Some(part) = parts.get_mut(usize::from(client.shard())) {
                part.clients.push(client);
            }
        }
        for client in selection.users().iter().flat_map(|uid| look.clients_of(uid.as_str())) {
            if let Some(part) = parts.get_mut(usize::from(client.shard())) {
                part.of_users.push(client);
            }
        }
        for shard in selection.groups.iter().flat_map(|group: &Name| look.shards_of(group.as_str()))
        {
            if let Some(part) = parts.get_mut(usize::from(shard)) {
                part.has_members = true;
            }
        }
        let concerned = |part: &Part| {
            selection.all
                || part.has_members
                || !(part.clients.is_empty() && part.of_users.is_empty())
        };
        let parts = parts.into_iter().enumerate().filter(|(_, part)| concerned(part));
        parts
            .map(|(shard, Part { clients, of_users, .. })| {
                let selection = Arc::clone(selection);
                (shard, Clients::Picked(Arc::new(Picked { selection, clients, of_users })))
            })
            .collect()
    }
}
