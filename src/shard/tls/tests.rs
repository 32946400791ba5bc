//! A stream whose other end is a rustls client, over sockets that take little.

use std::{
    collections::VecDeque,
    net::{TcpListener, TcpStream},
    sync::Arc,
};

use proptest::prelude::*;
use rustls::{ClientConfig, ClientConnection, RootCertStore, ServerConfig, crypto::ring};
use socket2::SockRef;

use super::{super::write_queue::Sort, *};

/// Both ends of a connection whose handshake is done.
pub(in super::super) fn shaken() -> (ClientConnection, Established) {
    let made = rcgen::generate_simple_self_signed(["a.example".to_owned()]).unwrap();
    let provider = Arc::new(ring::default_provider());
    let mut roots = RootCertStore::empty();
    roots.add(made.cert.der().clone()).unwrap();
    let mut client = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let key = rustls::pki_types::PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
    let server = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key)
        .unwrap();
    client.enable_secret_extraction = true;
    let name = "a.example".try_into().unwrap();
    let mut client = ClientConnection::new(client.into(), name).unwrap();
    let mut server = ServerConnection::new(server.into()).unwrap();
    while client.is_handshaking() || server.is_handshaking() {
        let mut wire = Vec::new();
        client.write_tls(&mut wire).unwrap();
        server.read_tls(&mut wire.as_slice()).unwrap();
        server.process_new_packets().unwrap();
        wire.clear();
        // The tickets stay behind: they are the stream's to send.
        if client.is_handshaking() {
            while server.wants_write() {
                server.write_tls(&mut wire).unwrap();
            }
            client.read_tls(&mut wire.as_slice()).unwrap();
            client.process_new_packets().unwrap();
        }
    }
    (client, Established { connection: server, records: Records::default() })
}

/// A stream, its door, and the client at the other end.
struct Case {
    stream: TlsStream,
    door: Socket,
    out: WriteQueue,
    memory: Budget,
    scratch: Vec<u8>,
    client: ClientConnection,
    socket: TcpStream,
    heard: Vec<u8>,
}

impl Case {
    fn new() -> Self {
        let (client, server) = shaken();
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let socket = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        SockRef::from(&socket).set_recv_buffer_size(4096).unwrap();
        let (ours, _) = listener.accept().unwrap();
        SockRef::from(&ours).set_send_buffer_size(4096).unwrap();
        ours.set_nonblocking(true).unwrap();
        socket.set_nonblocking(true).unwrap();
        Self {
            stream: TlsStream::new(server, &Budget::default()),
            door: Socket::new(mio::net::TcpStream::from_std(ours), None, true),
            out: WriteQueue::default(),
            memory: Budget::default(),
            scratch: Vec::new(),
            client,
            socket,
            heard: Vec::new(),
        }
    }

    fn append(&mut self, bytes: Vec<u8>) {
        let frame = Frame::new(bytes.into(), &self.memory);
        self.out.append(frame, Sort::Message);
    }

    fn flush(&mut self) -> Flushed {
        let Self { stream, door, out, memory, scratch, .. } = self;
        stream.flush(&mut &*door, out, memory, scratch)
    }

    /// The client reads once, at most so much; false at the end.
    fn listen(&mut self, most: usize) -> bool {
        let mut bytes = vec![0; most];
        let Ok(count) = self.socket.read(&mut bytes) else { return true };
        let more = count > 0;
        let mut bytes = &bytes[..count];
        while !bytes.is_empty() {
            self.client.read_tls(&mut bytes).unwrap();
            self.client.process_new_packets().unwrap();
            let mut chunk = [0; 1 << 14];
            while let Ok(count @ 1..) = self.client.reader().read(&mut chunk) {
                self.heard.extend_from_slice(&chunk[..count]);
            }
        }
        more
    }

    /// The client reads what is still under way, after our side has ended.
    fn hear_out(&mut self) {
        self.door.shut_write();
        self.socket.set_nonblocking(false).unwrap();
        while self.listen(1 << 16) {}
    }

    /// Flushes and reads until nothing is left; answers the messages that were written.
    fn drain(&mut self) -> u64 {
        // Only to be done sooner: a window that closes is opened again after a while.
        SockRef::from(&self.socket).set_recv_buffer_size(1 << 20).unwrap();
        let mut messages = 0;
        while !self.out.is_empty() || self.stream.rest.is_some() {
            messages += self.flush().messages;
            self.listen(1 << 16);
        }
        messages
    }
}

#[derive(Clone, Debug)]
enum Step {
    Message(usize),
    DropOldest,
    Flush,
    Listen(usize),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (1usize..20_000).prop_map(Step::Message),
        2 => (1usize..200).prop_map(Step::Message),
        1 => Just(Step::DropOldest),
        3 => Just(Step::Flush),
        2 => (1usize..20_000).prop_map(Step::Listen),
    ]
}

/// A message that can be told apart: number, length, filling.
fn message(number: u32, len: usize) -> Vec<u8> {
    let mut bytes = number.to_be_bytes().to_vec();
    bytes.extend(u32::try_from(len).unwrap().to_be_bytes());
    bytes.extend(std::iter::repeat_n(number.to_be_bytes()[3], len));
    bytes
}

/// The numbers of the messages, each of which has to be whole.
fn numbers(mut heard: &[u8]) -> Vec<u32> {
    let mut numbers = Vec::new();
    while !heard.is_empty() {
        let number = u32::from_be_bytes(heard[..4].try_into().unwrap());
        let len = u32::from_be_bytes(heard[4..8].try_into().unwrap()) as usize;
        assert_eq!(heard[..8 + len], message(number, len));
        numbers.push(number);
        heard = &heard[8 + len..];
    }
    numbers
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]
    #[test]
    fn what_is_dropped_is_whole_and_what_is_sent_is_in_order(
        steps in prop::collection::vec(step(), 1..40),
    ) {
        let mut case = Case::new();
        let (mut said, mut dropped, mut written) = (0, 0, 0);
        for step in steps {
            match step {
                Step::Message(len) => {
                    case.append(message(said, len));
                    said += 1;
                }
                Step::DropOldest => dropped += u32::from(case.out.drop_oldest()),
                Step::Flush => written += case.flush().messages,
                Step::Listen(most) => prop_assert!(case.listen(most)),
            }
            let held = case.stream.rest.as_ref().map_or(0, |rest| rest.len());
            prop_assert!(held <= RECORD + 1024, "no more than a record is held: {}", held);
            prop_assert!(case.out.bytes() >= held && case.memory.used() >= held);
        }
        written += case.drain();
        case.hear_out();
        let heard = numbers(&case.heard);
        prop_assert_eq!(heard.len(), (said - dropped) as usize);
        prop_assert!(heard.is_sorted_by(|a, b| a < b));
        prop_assert_eq!(written, u64::from(said - dropped));
        prop_assert_eq!((case.out.bytes(), case.memory.used()), (0, 0));
    }
}

#[test]
fn a_message_counts_as_written_only_when_its_record_is() {
    let mut case = Case::new();
    let mut said = 0u64;
    let mut written = 0;
    while case.stream.rest.is_none() {
        case.append(vec![7; 1000]);
        said += 1;
        let flushed = case.flush();
        written += flushed.messages;
    }
    assert_eq!(written + case.stream.messages(), said);
    assert!(case.stream.messages() > 0);
    assert_eq!(case.out.begun_bytes(), case.out.bytes());
    assert_eq!(case.out.discard(), 0, "all of it was sealed");
    assert!(!case.out.is_empty(), "the rest of the record still has to go out");
    written += case.drain();
    assert_eq!((written, case.memory.used()), (said, 0));
}

#[test]
fn the_end_is_not_said_in_the_middle_of_a_record() {
    let mut case = Case::new();
    while case.stream.rest.is_none() {
        case.append(vec![7; 1000]);
        case.flush();
    }
    case.stream.end(&case.door);
    case.drain();
    case.stream.end(&case.door);
    case.hear_out();
    assert!(case.client.process_new_packets().unwrap().peer_has_closed());
}

#[test]
fn bytes_are_opened_however_they_are_cut_and_the_end_is_noticed() {
    for piece in [1, 7, 4096, 5000, 1 << 20] {
        let (mut client, server) = shaken();
        let mut stream = TlsStream::new(server, &Budget::default());
        let said: VecDeque<u8> = (0..60_000u32).map(|n| n.to_le_bytes()[0]).collect();
        let said: Vec<u8> = said.into();
        client.writer().write_all(&said).unwrap();
        client.send_close_notify();
        let mut wire = Vec::new();
        while client.wants_write() {
            client.write_tls(&mut wire).unwrap();
        }
        wire.extend(b"what follows is ignored");
        let mut opened = Vec::new();
        for piece in wire.chunks(piece) {
            stream.open(piece, &mut opened).unwrap();
        }
        assert!(opened == said && stream.has_ended(), "in pieces of {piece}");
    }
}

#[test]
fn rubbish_is_an_error_and_leaves_an_alert_to_be_said() {
    let (_, server) = shaken();
    let mut stream = TlsStream::new(server, &Budget::default());
    let rubbish = [&[0x17, 3, 3, 0, 32][..], &[0; 32]].concat();
    assert!(stream.open(&rubbish, &mut Vec::new()).is_err());
    assert!(stream.wants_write());

    // Nor is a record waited for that is longer than any may be.
    let (_, server) = shaken();
    let mut stream = TlsStream::new(server, &Budget::default());
    assert!(stream.open(&[0x17, 3, 3, 0xff, 0xff], &mut Vec::new()).is_err());
    assert!(stream.wants_write());
}

#[test]
fn what_was_taken_before_the_end_counts_and_the_rest_is_given_up_once() {
    /// Takes so many bytes and no more, then breaks.
    struct Brittle(usize);

    impl Write for Brittle {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            match bytes.len().min(self.0) {
                0 => Err(ErrorKind::ConnectionReset.into()),
                taken => {
                    self.0 -= taken;
                    Ok(taken)
                }
            }
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    // Nothing, a part of the first record, and some records.
    for bytes in [0, 100, 10_000] {
        let mut case = Case::new();
        for _ in 0..400 {
            case.append(vec![7; 100]);
        }
        let Case { stream, out, memory, scratch, .. } = &mut case;
        let mut socket = Brittle(bytes);
        let mut flushed = stream.flush(&mut socket, out, memory, scratch);
        if flushed.state == State::Blocked {
            // A part was taken, so the next attempt is the one that fails.
            let again = stream.flush(&mut socket, out, memory, scratch);
            assert_eq!((again.bytes, again.messages), (0, 0));
            flushed = Flushed { state: again.state, ..flushed };
        }
        assert_eq!(flushed.state, State::Broken);
        assert_eq!(flushed.bytes, bytes as u64);
        assert_eq!(flushed.messages > 0, bytes == 10_000);
        assert_eq!(flushed.messages + stream.messages() + out.abandon(), 400);
    }

    // A break between two records, found in one attempt.
    let mut case = Case::new();
    let whole = |case: &mut Case| {
        let mut sealed = Vec::new();
        let Case { stream, out, .. } = case;
        stream.seal(out, &mut sealed).unwrap();
        stream.carried = Carried::default();
        sealed.len()
    };
    (0..FRAMES).for_each(|_| case.append(vec![7; 100]));
    let _ = whole(&mut case); // the tickets leave with it
    (0..FRAMES).for_each(|_| case.append(vec![7; 100]));
    let record = whole(&mut case);
    (0..200).for_each(|_| case.append(vec![7; 100]));
    let Case { stream, out, memory, scratch, .. } = &mut case;
    let flushed = stream.flush(&mut Brittle(2 * record), out, memory, scratch);
    assert_eq!(flushed.state, State::Broken);
    assert_eq!((flushed.bytes, flushed.messages), (2 * record as u64, 2 * FRAMES as u64));
    assert_eq!(stream.messages(), FRAMES as u64, "sealed, and never sent");
    assert_eq!(out.abandon(), 200 - 3 * FRAMES as u64);
}

#[test]
fn an_incomplete_record_is_on_the_books_until_it_ends_or_is_given_up() {
    let (mut client, server) = shaken();
    let memory = Budget::default();
    let other = memory.charge(1000);
    let mut stream = TlsStream::new(server, &memory);
    client.writer().write_all(&[7; 10_000]).unwrap();
    let mut wire = Vec::new();
    client.write_tls(&mut wire).unwrap();
    let mut opened = Vec::new();
    for (at, byte) in wire[..wire.len() - 1].iter().enumerate() {
        assert!(!stream.open(&[*byte], &mut opened).unwrap());
        let books = memory.used();
        assert!(stream.is_mid_record());
        assert!(books > 1000 + at && books <= 1000 + 2 * at.max(8), "{books} for {at}");
    }
    assert!(stream.open(&wire[wire.len() - 1..], &mut opened).unwrap());
    assert_eq!((memory.used(), opened.len(), stream.is_mid_record()), (1000, 10_000, false));

    stream.open(&wire[..500], &mut opened).unwrap();
    assert!(memory.used() >= 1500);
    stream.go_blind();
    stream.open(&wire[500..], &mut opened).unwrap();
    assert_eq!((memory.used(), opened.len(), stream.is_mid_record()), (1000, 10_000, false));
    stream.open(&[], &mut opened).unwrap();
    drop(stream);
    assert_eq!(memory.used(), other.bytes());
}

/// rustls puts the parts of a message together, 64 KiB of it, and nobody would know.
#[test]
fn a_message_to_tls_itself_that_does_not_end_is_refused() {
    use rustls::{
        ConnectionTrafficSecrets, ContentType, ProtocolVersion,
        crypto::cipher::{OutboundChunks, OutboundPlainMessage},
    };
    let (client, server) = shaken();
    let mut stream = TlsStream::new(server, &Budget::default());
    let suite = client.negotiated_cipher_suite().and_then(|suite| suite.tls13()).unwrap();
    let (first, secrets) = client.dangerous_extract_secrets().unwrap().tx;
    let (ConnectionTrafficSecrets::Aes128Gcm { key, iv }
    | ConnectionTrafficSecrets::Aes256Gcm { key, iv }
    | ConnectionTrafficSecrets::Chacha20Poly1305 { key, iv }) = secrets
    else {
        unreachable!("no other ciphers are agreed upon")
    };
    let mut sealer = suite.aead_alg.encrypter(key, iv);
    // A certificate that is said to have 60 KiB, which nobody asked for.
    let mut message = vec![11, 0, 0xf0, 0];
    message.resize(60 << 10, 0);
    let (mut said, mut opened) = (0, Vec::new());
    for (number, part) in (first..).zip(message.chunks(500)) {
        let plain = OutboundPlainMessage {
            typ: ContentType::Handshake,
            version: ProtocolVersion::TLSv1_2,
            payload: OutboundChunks::Single(part),
        };
        let record = sealer.encrypt(plain, number).unwrap().encode();
        said += record.len();
        let outcome = stream.open(&record, &mut opened);
        assert_eq!(outcome.is_err(), said > SILENT, "{said} bytes said: {outcome:?}");
        if outcome.is_err() {
            return;
        }
    }
    panic!("all of it was taken");
}
