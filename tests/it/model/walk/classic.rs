//! The classic calls.

use super::{Walk, draw::name, sorted};

#[derive(Debug)]
pub enum Call {
    Bind(String, String),
    Unbind(String),
    Join(String, String),
    Leave(String, String),
    Dissolve(String),
    ToClient(String, String),
    ToUser(String, String),
    ToGroup(String, String),
    ToAll(String),
    AskOfClient(String),
    AskOfUser(String),
    AskOfGroup(String),
    AskOfAll,
    /// The call that closes, for somebody who isn't there.
    CloseNobody(String),
}

impl Walk {
    pub(super) fn classic_call(&mut self, number: u64) -> Call {
        match self.random.below(100) {
            0..12 => Call::Bind(self.client(), self.name('u')),
            12..16 => Call::Unbind(self.client()),
            16..34 => Call::Join(self.client(), self.name('g')),
            34..42 => Call::Leave(self.client(), self.name('g')),
            42..44 => Call::Dissolve(self.name('g')),
            44..62 => Call::ToClient(self.client(), self.message(number)),
            62..72 => Call::ToUser(self.name('u'), self.message(number)),
            72..80 => Call::ToGroup(self.name('g'), self.message(number)),
            80..83 => Call::ToAll(self.message(number)),
            83..88 => Call::AskOfClient(self.client()),
            88..92 => Call::AskOfUser(self.name('u')),
            92..96 => Call::AskOfGroup(self.name('g')),
            96..98 => Call::AskOfAll,
            _ => Call::CloseNobody(self.nobody()),
        }
    }

    pub(super) async fn call(&mut self, call: Call) {
        let (gateway, world) = (&self.gateway, &mut self.world);
        match call {
            Call::CloseNobody(client) => {
                assert_eq!(gateway.clonse_client(&client).await.result, !client.is_empty());
            }
            Call::Bind(client, uid) => {
                let bound = gateway.client_bind_uid(&client, &uid).await.result;
                assert_eq!(bound, world.bind(&client, &uid));
            }
            Call::Unbind(client) => {
                assert_eq!(gateway.un_bind_uid(&client).await.result, world.unbind(&client));
            }
            Call::Join(client, group) => {
                let joined = gateway.join_group(&client, &group).await.result;
                assert_eq!(joined, world.join(&client, &group));
            }
            Call::Leave(client, group) => {
                let left = gateway.leave_group(&client, &group).await.result;
                assert_eq!(left, world.leave(&client, &group));
            }
            Call::Dissolve(group) => {
                let dissolved = world.dissolve(&group) > 0;
                assert_eq!(gateway.un_group(&group).await.result, dissolved);
            }
            Call::ToClient(client, text) => {
                let sent = gateway.send_message_to_client(&client, &text).await.result;
                assert_eq!(sent, world.send_to_client(&client, &text));
            }
            Call::ToUser(uid, text) => {
                let sent = gateway.send_message_to_uid(&uid, &text).await.result;
                assert_eq!(sent, world.send_to_user(&uid, &text));
            }
            Call::ToGroup(group, text) => {
                let answer = gateway.send_message_to_group(&group, &text).await;
                let exists = !world.members(&group).is_empty();
                let sent = world.send_to_group(&group, &text);
                assert_eq!((answer.result, size(answer.arrive)), (exists, sent));
            }
            Call::ToAll(text) => {
                let sent = gateway.broadcast_message(&text).await.result;
                assert_eq!(sent, world.send_to_all(&text));
            }
            Call::AskOfClient(client) => self.ask_of_client(&client).await,
            Call::AskOfUser(uid) => self.ask_of_user(&uid).await,
            Call::AskOfGroup(group) => self.ask_of_group(&group).await,
            Call::AskOfAll => self.ask_of_all().await,
        }
    }

    pub(super) async fn ask_of_client(&self, client: &str) {
        let (gateway, world) = (&self.gateway, &self.world);
        let online = gateway.client_is_online(client).await.isonline;
        assert_eq!(online, world.is_online(client), "{client} is online");
        let uid = gateway.get_client_by_uid(client).await.uid;
        assert_eq!(uid, world.uid_of(client), "uid of {client}");
    }

    async fn ask_of_user(&self, uid: &str) {
        let (gateway, world) = (&self.gateway, &self.world);
        let expected = world.clients_of(uid);
        let online = gateway.uid_is_online(uid).await.result;
        assert_eq!(online, !expected.is_empty(), "{uid:?} is online");
        let clients = gateway.get_uid_by_client(uid).await.clientid;
        assert_eq!(sorted(clients), expected, "clients of {uid:?}");
    }

    async fn ask_of_group(&self, group: &str) {
        let (gateway, world) = (&self.gateway, &self.world);
        let expected = world.members(group);
        let count = gateway.count_online_group(group).await.count;
        assert_eq!(size(count), expected.len() as u64, "count of {group:?}");
        let members = gateway.get_group_online_client(group).await.clientid;
        assert_eq!(sorted(members), expected, "members of {group:?}");
    }

    async fn ask_of_all(&self) {
        let (gateway, world) = (&self.gateway, &self.world);
        let clients = world.clients();
        assert_eq!(size(gateway.count_online_client().await.count), clients.len() as u64);
        assert_eq!(sorted(gateway.get_all_online_client().await.client), clients);
        let users = world.users();
        assert_eq!(size(gateway.count_online_uid().await.count), users.len() as u64);
        assert_eq!(sorted(gateway.get_all_online_uid().await.uid), users);
        assert_eq!(size(gateway.count_group().await.count), world.groups().len() as u64);
    }

    pub(super) async fn ask_everything(&mut self) {
        self.ask_of_all().await;
        for client in self.world.clients() {
            self.ask_of_client(&client).await;
            self.read(&client).await;
        }
        for number in 0..12 {
            self.ask_of_user(&name('u', number)).await;
            self.ask_of_group(&name('g', number)).await;
        }
    }
}

fn size(count: i32) -> u64 {
    u64::try_from(count).unwrap()
}
