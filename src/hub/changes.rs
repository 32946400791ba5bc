//! Changing clients: who they are, which groups they are in, what is noted about them.
//!
//! Each client is changed whole or not at all. Many are changed in steps that are short for the
//! shards, which have a turn for their sockets in between.

use std::sync::Arc;

use super::{Hub, HubError, any_name};
use crate::{
    change::{Change, Changed, Refusal, Subject},
    ids::{ClientId, Name},
    shard::{Command, Cost},
};

/// Parts of changes that a shard makes in one step: about a millisecond's worth.
const PARTS_PER_STEP: usize = 4096;

impl Hub {
    /// Changes one client, whole or not at all.
    pub async fn change(&self, client: ClientId, mut change: Change) -> Result<Changed, HubError> {
        for payload in std::mem::take(&mut change.messages) {
            change.messages.push(self.deflated(payload).await);
        }
        self.change_one(client, Arc::new(change)).await
    }

    /// The same, as soon as there is room for it.
    pub async fn change_patiently(
        &self,
        client: ClientId,
        mut change: Change,
    ) -> Result<Changed, HubError> {
        for payload in std::mem::take(&mut change.messages) {
            change.messages.push(self.deflated(payload).await);
        }
        let bytes = change.messages.iter().map(|payload| payload.bytes.len()).sum();
        let (cost, change) = (Cost { calls: 1, bytes }, Arc::new(change));
        loop {
            match self.change_one(client, Arc::clone(&change)).await {
                Err(HubError::Busy { shard, .. }) => self.room_for(shard, cost).await,
                other => return other,
            }
        }
    }

    async fn change_one(&self, client: ClientId, change: Arc<Change>) -> Result<Changed, HubError> {
        let subject = Subject { client, of: None };
        let mut changed = self.change_all(vec![subject], change).await?;
        match changed.pop() {
            Some(Ok(changed)) => Ok(changed),
            Some(Err(Refusal::UnknownClient)) | None => Err(HubError::UnknownClient(client)),
            Some(Err(refusal)) => Err(HubError::Refused(refusal)),
        }
    }

    /// Changes clients in the same way, each whole or not at all; answers what became of each, in
    /// their order.
    async fn change_all(
        &self,
        subjects: Vec<Subject>,
        change: Arc<Change>,
    ) -> Result<Vec<Result<Changed, Refusal>>, HubError> {
        let mut results = vec![Err(Refusal::UnknownClient); subjects.len()];
        let mut by_shard: Vec<(Vec<usize>, Vec<Subject>)> = Vec::new();
        by_shard.resize_with(self.0.shards.len(), Default::default);
        for (index, subject) in subjects.into_iter().enumerate() {
            // No other gateway's client is one of ours.
            if let Some((indexes, subjects)) = by_shard.get_mut(usize::from(subject.client.shard()))
            {
                indexes.push(index);
                subjects.push(subject);
            }
        }
        let shards =
            by_shard.into_iter().enumerate().filter(|(_, (indexes, _))| !indexes.is_empty());
        let (routes, indexes): (Vec<_>, Vec<_>) =
            shards.map(|(shard, (indexes, subjects))| ((shard, subjects), indexes)).unzip();
        let answers = self
            .ask(routes, |subjects, reply| Command::Change(subjects, Arc::clone(&change), reply))?;
        for (indexes, answer) in indexes.into_iter().zip(answers) {
            for (index, result) in indexes.into_iter().zip(answer.await?) {
                results[index] = result;
            }
        }
        Ok(results)
    }

    /// Gives the client a uid, in place of an earlier one.
    pub async fn bind(&self, client: ClientId, uid: Name) -> Result<(), HubError> {
        self.change(client, Change::uid(Some(uid))).await.map(drop)
    }

    /// Takes the client's uid away.
    pub async fn unbind(&self, client: ClientId) -> Result<(), HubError> {
        self.change(client, Change::uid(None)).await.map(drop)
    }

    /// Puts the client into a group, which begins to exist with its first member.
    pub async fn join(&self, client: ClientId, group: Name) -> Result<(), HubError> {
        self.change(client, Change::join(vec![group])).await.map(drop)
    }

    /// Takes the client out of a group; answers false if it was no member.
    pub async fn leave(&self, client: ClientId, group: &str) -> Result<bool, HubError> {
        match any_name(group) {
            Some(group) => Ok(self.change(client, Change::leave(vec![group])).await?.left > 0),
            None => Ok(false),
        }
    }

    /// Dissolves groups, members stay connected; answers how many members each had.
    pub async fn dissolve(&self, groups: Vec<Name>) -> Result<Vec<usize>, HubError> {
        let mut members = vec![0; groups.len()];
        let in_all = &self.0.directory.groups;
        let mut shards: Vec<_> =
            groups.iter().flat_map(|group| in_all.shards(group.as_str())).collect();
        shards.sort_unstable();
        shards.dedup();
        let groups: Arc<[Name]> = groups.into();
        let routes = shards.into_iter().map(|shard| (usize::from(shard), ()));
        let answers =
            self.ask(routes, |(), reply| Command::Dissolve(Arc::clone(&groups), reply))?;
        for answer in answers {
            for (total, here) in members.iter_mut().zip(answer.await?) {
                *total += here;
            }
        }
        Ok(members)
    }

    /// Changes clients in the same way; answers what became of each, in their order. If there is no
    /// room for the first of them, nothing is done; the others wait for room.
    pub async fn change_many(
        &self,
        subjects: &[Subject],
        change: Change,
    ) -> Result<Vec<Result<Changed, Refusal>>, HubError> {
        // What a client has noted already is copied with each retouch.
        let noted = self.0.live.snapshot().limits.attributes;
        let retouched = change.attributes.as_ref().map_or(0, |it| noted + it.remove.len());
        let parts = 1 + change.leave.len() + change.join.len() + retouched;
        let change = Arc::new(change);
        let mut results = Vec::with_capacity(subjects.len());
        for step in subjects.chunks((PARTS_PER_STEP / parts).max(1)) {
            let changed = loop {
                match self.change_all(step.to_vec(), Arc::clone(&change)).await {
                    Err(HubError::Busy { shard, .. }) if !results.is_empty() => {
                        self.room_for(shard, Cost::CALL).await;
                    }
                    other => break other?,
                }
            };
            results.extend(changed);
        }
        Ok(results)
    }
}
