//! What is remembered of the request by which a client has connected: what the business system may
//! want to know of it later, and no more.

/// What is remembered of the request by which a client has connected. Shared by clients of which
/// the same is known.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct About {
    /// The path, without the query; empty for `/`.
    pub path: Box<str>,
    /// The sub-protocol that was agreed; empty if none was.
    pub subprotocol: Box<str>,
    /// Headers that `websocket.keep_headers` names, by name, in lower case.
    pub headers: Box<[(Box<str>, Box<str>)]>,
}
