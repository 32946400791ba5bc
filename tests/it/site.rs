//! A gateway with files of its own: settings, tokens, certificates. They can be rewritten, and the
//! gateway told to read them again.

use std::{net::Ipv4Addr, path::PathBuf, time::Duration};

use gateway_websocket::{app::Surface, grpc::proto, lifecycle::Reloaded};
use tokio::{net::TcpListener, sync::mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{
    Code, Request, Status, Streaming,
    metadata::MetadataValue,
    transport::{Channel, Endpoint},
};
use tonic_health::pb::{
    HealthCheckRequest, HealthCheckResponse, health_check_response::ServingStatus,
    health_client::HealthClient,
};
use tonic_reflection::pb::v1::{
    ServerReflectionRequest, ServerReflectionResponse,
    server_reflection_client::ServerReflectionClient, server_reflection_request::MessageRequest,
};

use crate::{client::soon, gateway::Gateway};

pub struct Site {
    directory: tempfile::TempDir,
    gateway: Option<Gateway>,
}

impl Site {
    /// A place for files.
    pub fn new() -> Self {
        Self { directory: tempfile::tempdir().unwrap(), gateway: None }
    }

    /// A gateway with these settings.
    pub async fn with(toml: &str) -> Self {
        let mut site = Self::new();
        site.start(toml).await;
        site
    }

    /// Starts the gateway, once the files are there.
    pub async fn start(&mut self, toml: &str) {
        self.settings(toml);
        self.gateway = Some(Gateway::from_file(&self.path("gateway.toml")).await);
    }

    /// The same, with a listener of somebody else.
    pub async fn start_at(&mut self, toml: &str, listener: TcpListener) {
        self.settings(toml);
        let inherited = vec![(Surface::Grpc, listener)];
        self.gateway = Some(Gateway::inheriting(&self.path("gateway.toml"), inherited).await);
    }

    /// Rewrites the settings and has them put in force.
    pub async fn reload(&self, toml: &str) {
        self.settings(toml);
        self.reread().await;
    }

    /// Has all files read again, and expects that they are accepted.
    pub async fn reread(&self) {
        let outcome = self.gateway().handle().reload().await.unwrap();
        assert!(matches!(outcome, Reloaded::Accepted { .. }), "{outcome:?}");
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Writes a file as a whole, for its owner alone, and answers its path as TOML.
    pub fn write(&self, name: &str, text: &str) -> String {
        use std::{io::Write as _, os::unix::fs::OpenOptionsExt as _};
        let new = self.path(&format!("{name}.new"));
        let mut options = std::fs::OpenOptions::new();
        let mut file = options.write(true).create(true).truncate(true).mode(0o600).open(&new);
        file.as_mut().unwrap().write_all(text.as_bytes()).unwrap();
        let path = self.path(name);
        std::fs::rename(new, &path).unwrap();
        format!("{:?}", path.display().to_string())
    }

    fn settings(&self, toml: &str) {
        self.write("gateway.toml", &format!("drain.window = \"0s\"\n{toml}"));
    }

    pub fn gateway(&self) -> &Gateway {
        self.gateway.as_ref().expect("the gateway was started")
    }

    /// Where to connect, in the clear.
    pub fn endpoint(&self) -> Endpoint {
        Endpoint::from_shared(format!("http://{}", self.gateway().grpc())).unwrap()
    }

    /// A caller on this machine.
    pub fn caller(&self) -> Caller {
        Caller::at(self.endpoint().connect_lazy())
    }

    /// A caller on this machine that has another address of it.
    pub fn caller_from(&self, last: u8) -> Caller {
        let address = Ipv4Addr::new(127, 0, 0, last);
        Caller::at(self.endpoint().local_address(Some(address.into())).connect_lazy())
    }
}

/// Makes calls over one connection, with a token or without.
#[derive(Clone)]
pub struct Caller {
    channel: Channel,
    token: Option<String>,
}

impl Caller {
    pub fn at(channel: Channel) -> Self {
        Self { channel, token: None }
    }

    /// The same connection with the value of `authorization`.
    pub fn saying(&self, authorization: &str) -> Self {
        Self { channel: self.channel.clone(), token: Some(authorization.to_owned()) }
    }

    /// The same connection with a token.
    pub fn bearing(&self, token: &str) -> Self {
        self.saying(&format!("Bearer {token}"))
    }

    fn request<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        if let Some(token) = &self.token {
            let value = MetadataValue::try_from(token.as_str()).unwrap();
            request.metadata_mut().insert("authorization", value);
        }
        request
    }

    /// An ordinary call.
    pub async fn call(&self) -> Result<i32, Status> {
        use proto::count_online_client_client::CountOnlineClientClient as Client;
        let request = self.request(proto::CountOnlineClientRequest {});
        let mut client = Client::new(self.channel.clone());
        let answer = soon("an answer", client.count_online_client(request)).await?;
        Ok(answer.into_inner().count)
    }

    /// Asserts that the connection of a call is closed. What the library makes of that is its own:
    /// it makes several things of it.
    pub async fn is_cut_off(&self) {
        let code = self.call().await.unwrap_err().code();
        assert!(matches!(code, Code::Unavailable | Code::Cancelled | Code::Unknown), "{code:?}");
    }

    /// A call that can't be undone.
    pub async fn close(&self, client: &str) -> Result<bool, Status> {
        use proto::clonse_client_client::ClonseClientClient as Client;
        let request = self.request(proto::ClonseClientRequest { clientid: client.to_owned() });
        let mut client = Client::new(self.channel.clone());
        Ok(client.clonse_client(request).await?.into_inner().result)
    }

    /// Another.
    pub async fn dissolve(&self, group: &str) -> Result<bool, Status> {
        use proto::un_group_client::UnGroupClient as Client;
        let request = self.request(proto::UnGroupRequest { group: group.to_owned() });
        let mut client = Client::new(self.channel.clone());
        Ok(client.un_group(request).await?.into_inner().result)
    }

    pub async fn join(&self, client: &str, group: &str) -> Result<bool, Status> {
        use proto::join_group_client::JoinGroupClient as Client;
        let (clientid, group) = (client.to_owned(), group.to_owned());
        let request = self.request(proto::JoinGroupRequest { clientid, group });
        let mut client = Client::new(self.channel.clone());
        Ok(client.join_group(request).await?.into_inner().result)
    }

    pub async fn health(&self) -> Result<ServingStatus, Status> {
        let request = self.request(HealthCheckRequest::default());
        let answer = HealthClient::new(self.channel.clone()).check(request).await?;
        Ok(answer.into_inner().status())
    }

    /// A stream that says at once how the gateway is, and again when that changes.
    pub async fn watch(&self) -> Result<Watch, Status> {
        let request = self.request(HealthCheckRequest::default());
        let mut client = HealthClient::new(self.channel.clone());
        let mut watch = Watch(soon("the stream", client.watch(request)).await?.into_inner());
        assert_eq!(watch.next().await.unwrap(), ServingStatus::Serving);
        Ok(watch)
    }

    /// A stream that answers questions.
    pub async fn reflection(&self) -> Result<Reflection, Status> {
        let (ask, questions) = mpsc::channel(1);
        let request = self.request(ReceiverStream::new(questions));
        let mut client = ServerReflectionClient::new(self.channel.clone());
        let opened = soon("the stream", client.server_reflection_info(request)).await?;
        let mut reflection = Reflection { ask, answers: opened.into_inner() };
        reflection.question().await?;
        Ok(reflection)
    }
}

pub struct Watch(Streaming<HealthCheckResponse>);

impl Watch {
    pub async fn next(&mut self) -> Result<ServingStatus, Status> {
        let next = soon("a change of health, or the end", self.0.message()).await?;
        Ok(next.expect("the stream ends with a status that says why").status())
    }
}

pub struct Reflection {
    ask: mpsc::Sender<ServerReflectionRequest>,
    answers: Streaming<ServerReflectionResponse>,
}

impl Reflection {
    /// Asks for the names of the services.
    pub async fn question(&mut self) -> Result<(), Status> {
        let question = ServerReflectionRequest {
            host: String::new(),
            message_request: Some(MessageRequest::ListServices(String::new())),
        };
        // Who has ended the stream says why below.
        let _ = self.ask.send(question).await;
        self.answer().await
    }

    /// Waits for an answer, or for the end.
    pub async fn answer(&mut self) -> Result<(), Status> {
        let answer = soon("an answer, or the end", self.answers.message()).await?;
        assert!(answer.is_some(), "the stream ends with a status that says why");
        Ok(())
    }
}

/// Asks until the answer is yes.
pub async fn until(what: &str, mut is_so: impl AsyncFnMut() -> bool) {
    let asking = async {
        while !is_so().await {
            tokio::time::sleep(Duration::from_millis(5)).await; // nobody tells when it comes true
        }
    };
    soon(what, asking).await;
}
