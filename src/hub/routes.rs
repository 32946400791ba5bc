//! From a target to the shards that it concerns, and to whom it means on each.

use std::sync::Arc;

use smallvec::{SmallVec, smallvec};

use super::Hub;
use crate::{
    directory::{Directory, Names},
    ids::{ClientId, Name},
    message::{Selection, Target},
    shard::Recipients,
};

/// The shards concerned, each once, and whom of their clients.
pub(super) type Routes = SmallVec<[(usize, Recipients); 4]>;

impl Hub {
    /// Which shards a target concerns, and which clients on each. The shards themselves know who is
    /// meant; here it only counts that nobody is left out.
    pub(super) fn routes(&self, target: &Target) -> Routes {
        let directory = &self.0.directory;
        match target {
            Target::All => self.everywhere(&Recipients::All),
            Target::Client(client) => self.route(*client).into_iter().collect(),
            Target::User(uid) => named(&directory.users, uid, &Recipients::User(uid.clone())),
            Target::Group(group) => {
                named(&directory.groups, group, &Recipients::Group(group.clone()))
            }
            Target::Selection(selection) => {
                let clients = Recipients::Selected(Arc::clone(selection));
                if selection.all {
                    return self.everywhere(&clients);
                }
                let shards = directory.look(|directory| self.shards_of(selection, directory));
                // Somebody may have moved from a name that was looked up late to one that was looked
                // up early: then all are asked, which is always right.
                let Some(shards) = shards else { return self.everywhere(&clients) };
                let concerned = shards.into_iter().enumerate().filter(|(_, concerned)| *concerned);
                concerned.map(|(shard, _)| (shard, clients.clone())).collect()
            }
        }
    }

    /// The shard that an id names; none if this gateway has no such shard.
    pub(super) fn route(&self, client: ClientId) -> Option<(usize, Recipients)> {
        let shard = usize::from(client.shard());
        (shard < self.0.shards.len()).then(|| (shard, Recipients::These(smallvec![client])))
    }

    /// All shards.
    fn everywhere(&self, clients: &Recipients) -> Routes {
        (0..self.0.shards.len()).map(|shard| (shard, clients.clone())).collect()
    }

    /// Which shards a selection concerns.
    fn shards_of(&self, selection: &Selection, directory: &Directory) -> Vec<bool> {
        let mut concerned = vec![false; self.0.shards.len()];
        let clients = selection.clients.iter().map(|client| client.shard());
        let users = selection.users().iter().flat_map(|uid| directory.users.shards(uid.as_str()));
        let groups = selection.groups.iter().flat_map(|it| directory.groups.shards(it.as_str()));
        for shard in clients.chain(users).chain(groups) {
            // No other gateway's client is one of ours.
            if let Some(concerned) = concerned.get_mut(usize::from(shard)) {
                *concerned = true;
            }
        }
        concerned
    }
}

/// The shards that hold clients of a name.
fn named(names: &Names, name: &Name, clients: &Recipients) -> Routes {
    let shards = names.shards(name.as_str()).into_iter();
    shards.map(|shard| (usize::from(shard), clients.clone())).collect()
}
