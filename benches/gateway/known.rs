//! The rows of who a client is: what a connect costs with a token, and with a back end that is asked.

use std::{
    net::SocketAddr,
    time::{Duration, Instant, SystemTime},
};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD as BASE64};
use gateway_websocket::grpc::proto::v1::{
    AdmitRequest, AdmitResponse, Allow,
    admission_server::{Admission, AdmissionServer},
    admit_response::Verdict,
};
use hyper::{Request, body::Incoming, server::conn::http2, service::service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rcgen::KeyPair;
use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair};
use tokio::{net::TcpListener, runtime::Runtime};
use tonic::{Response, Status, codegen::Service as _};

use crate::{
    Outcome,
    rows::{Pairs, Plan, figures},
    side::Side,
    table::Report,
};

/// Clients that connect in a turn.
const CLIENTS: usize = 2000;

impl Plan {
    /// A connect with a token of ES256, against one without.
    pub(crate) fn tokens(&self, report: &mut Report) -> Outcome<()> {
        let (directory, pair) = (tempfile::tempdir()?, KeyPair::generate()?);
        let key = directory.path().join("key.pem");
        std::fs::write(&key, pair.public_key_pem())?;
        let key = format!("auth.key={}", key.display());
        let mut with = Side::gateway(&self.gateway, &["auth.algorithms=ES256", &key])?;
        with.bear(&token(&pair)?)?;
        self.connects("a token of ES256", with, report)
    }

    /// A connect about which a back end is asked, against one without.
    pub(crate) fn hook(&self, report: &mut Report) -> Outcome<()> {
        let back_end = BackEnd::new(Everybody)?;
        let address = format!("hook.address=http://{}", back_end.address);
        let with = Side::gateway(&self.gateway, &[&address])?;
        self.connects("a back end that is asked", with, report)
    }

    fn connects(&self, what: &str, mut with: Side, report: &mut Report) -> Outcome<()> {
        let mut without = self.gateway()?;
        // The first connections also pay for what is made once.
        for side in [&mut without, &mut with] {
            side.connect(100)?;
            side.disconnect()?;
        }
        let (mut pairs, mut rates) = (Pairs::default(), Vec::new());
        for _ in 0..self.long_turns() {
            let cost = |side: &mut Side| -> Outcome<(f64, f64, f64)> {
                let began = Instant::now();
                let cpu = side.cost_of_connecting(CLIENTS)?;
                let rate = CLIENTS as f64 / began.elapsed().as_secs_f64();
                side.disconnect()?;
                let per = |time: Duration| time.as_secs_f64() * 1e6 / CLIENTS as f64;
                Ok((per(cpu.process), per(cpu.shards), rate))
            };
            let (raw, raw_shards, _) = cost(&mut without)?;
            let (process, shards, rate) = cost(&mut with)?;
            pairs.add((raw, raw_shards), (process, shards), 1.0);
            rates.push(rate);
        }
        let text = format!("CPU per connect with {what}; left: without");
        report.add(pairs.absolute(&text, "µs", f64::NAN, f64::NAN));
        let mut row = figures("… of these, per second", rates, f64::NAN);
        row.unit = "1/s";
        report.add(row);
        Ok(())
    }
}

/// A token that is valid for a day.
fn token(pair: &KeyPair) -> Outcome<String> {
    let random = ring::rand::SystemRandom::new();
    let der = pair.serialize_der();
    let signer = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &der, &random)
        .map_err(|error| error.to_string())?;
    let expires = SystemTime::UNIX_EPOCH.elapsed()?.as_secs() + 86_400;
    let claims = format!(r#"{{"sub":"user-000000000000001","exp":{expires}}}"#);
    let said = [r#"{"alg":"ES256","typ":"JWT"}"#, &claims].map(|part| BASE64.encode(part));
    let said = said.join(".");
    let signature = signer.sign(&random, said.as_bytes()).map_err(|error| error.to_string())?;
    Ok(format!("{said}.{}", BASE64.encode(signature)))
}

/// A back end in a thread of its own.
pub(crate) struct BackEnd {
    pub(crate) address: SocketAddr,
    _runtime: Runtime,
}

impl BackEnd {
    /// Answers questions about clients as `admission` says.
    pub(crate) fn new(admission: impl Admission + Clone) -> Outcome<Self> {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0"))?;
        let address = listener.local_addr()?;
        runtime.spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let admission = admission.clone();
                let service = service_fn(move |request: Request<Incoming>| {
                    let mut server = AdmissionServer::new(admission.clone());
                    async move { server.call(request.map(tonic::body::Body::new)).await }
                });
                let connection = http2::Builder::new(TokioExecutor::new());
                tokio::spawn(connection.serve_connection(TokioIo::new(stream), service));
            }
        });
        Ok(Self { address, _runtime: runtime })
    }
}

/// Lets everybody in, as one user.
#[derive(Clone)]
struct Everybody;

#[tonic::async_trait]
impl Admission for Everybody {
    async fn admit(
        &self,
        _: tonic::Request<AdmitRequest>,
    ) -> Result<Response<AdmitResponse>, Status> {
        let allow = Allow { uid: "user-000000000000001".to_owned(), ..Allow::default() };
        Ok(Response::new(AdmitResponse { verdict: Some(Verdict::Allow(allow)) }))
    }
}
