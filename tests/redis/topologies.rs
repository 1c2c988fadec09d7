//! Wherever Redis is, the store finds it, and goes after it when it moves.

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use tower_response_cache::store::{LinkState, Redis, Store, Tiered};

use crate::{
    fill, key,
    outages::{Load, cache, impatient},
    patient, record,
    server::{Fleet, Server, free_port},
    stored,
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn when_the_primary_is_killed_under_load_no_request_fails_and_hits_come_from_the_next() {
    let mut fleet = Fleet::start();
    let store = impatient(fleet.url()).build().unwrap();
    let load = Load::on(&cache(&store));
    load.hits(500).await;
    fleet.primary.kill();
    crate::until(async || store.status().state != LinkState::Closed).await;
    load.answers(500).await;
    crate::until(async || store.status().state == LinkState::Closed).await;
    load.hits(500).await;
    load.end().await;
    assert!(fleet.replica.run::<Vec<String>>(&["KEYS", "t:*"]).len() > 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn when_the_primary_becomes_a_replica_writes_go_to_the_new_one() {
    let fleet = Fleet::start();
    let store = patient(fleet.url()).build().unwrap();
    assert!(fill(&store, &key(1), record("before")).await);
    fleet.fail_over();
    // Sentinel closes the connections of all whom it demotes, the test's own among them.
    crate::until(async || fleet.primary.try_run::<String>(&["INFO", "replication"]).is_ok_and(|told| told.contains("role:slave"))).await;
    crate::until(async || {
        let Ok(found) = store.get(&key(2)).await else { return false };
        matches!(store.put(&key(2), record("after"), found.generation).await, Ok(true))
    })
    .await;
    assert_eq!(stored(&store, &key(2)).await.as_deref(), Some("after"));
    assert!(fleet.replica.run::<String>(&["INFO", "replication"]).contains("role:master"));
    crate::until(async || !fleet.replica.records("t").is_empty()).await;
}

#[tokio::test]
async fn a_sentinel_that_does_not_answer_delays_nobody() {
    let fleet = Fleet::start();
    fleet.freeze_a_sentinel();
    let store = patient(fleet.url()).build().unwrap();
    assert!(fill(&store, &key(1), record("there")).await);
    assert_eq!(stored(&store, &key(1)).await.as_deref(), Some("there"));
}

#[tokio::test]
async fn a_service_that_no_sentinel_knows_is_an_outage_and_not_a_secret_told() {
    let fleet = Fleet::start();
    let url = fleet.url().replace("redis-sentinel://", "redis-sentinel://user:canary@").replace("/main/", "/unknown/");
    let store = patient(url).build().unwrap();
    let error = store.get(&key(1)).await.unwrap_err();
    assert!(error.is_unavailable(), "{error}");
    assert!(!format!("{error:?} {store:?}").contains("canary"));
}

/// An authority of its own making.
struct Authority {
    pem: String,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    fn new() -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(Vec::<String>::new()).unwrap();
        // Another name than those it signs: a certificate that its own subject issued would be taken for self-signed.
        params.distinguished_name.push(DnType::CommonName, "authority");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let pem = params.self_signed(&key).unwrap().pem();
        Self { pem, issuer: Issuer::new(params, key) }
    }

    /// A certificate for this machine, and its key.
    fn issue(&self) -> (String, String) {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec!["localhost".to_owned(), "127.0.0.1".to_owned()]).unwrap();
        (params.signed_by(&key, &self.issuer).unwrap().pem(), key.serialize_pem())
    }
}

#[tokio::test]
async fn over_tls_each_side_believes_only_certificates_of_those_it_trusts() {
    let (ours, theirs) = (Authority::new(), Authority::new());
    let directory = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| {
        let path = directory.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let (certificate, key_of_server) = ours.issue();
    let port = free_port().to_string();
    let files = [file("server.pem", &certificate), file("server.key", &key_of_server), file("ca.pem", &ours.pem)];
    let names = ["--tls-cert-file", "--tls-key-file", "--tls-ca-cert-file"];
    let mut arguments = vec!["--tls-port", &port, "--tls-auth-clients", "yes"];
    arguments.extend(names.iter().zip(&files).flat_map(|(name, file)| [*name, file.as_str()]));
    let _server = Server::start_with(&arguments);
    let url = format!("rediss://127.0.0.1:{port}/0");

    let (certificate, proof) = ours.issue();
    let trusted = patient(&url).tls_root(ours.pem.clone()).tls_identity(certificate.clone(), proof.clone()).build().unwrap();
    assert!(fill(&trusted, &key(1), record("in private")).await);
    let tiered = Tiered::new(trusted, 1 << 20);
    assert!(tiered.get(&key(1)).await.unwrap().record.is_some());
    crate::until(async || tiered.status().tracked).await;

    let (foreign, foreign_proof) = theirs.issue();
    let impostors = [
        ("a server that nobody vouches for", patient(&url).tls_identity(certificate.clone(), proof.clone())),
        ("a server that another vouches for", patient(&url).tls_root(theirs.pem.clone()).tls_identity(certificate, proof)),
        ("a client that shows nothing", patient(&url).tls_root(ours.pem.clone())),
        ("a client that another vouches for", patient(&url).tls_root(ours.pem.clone()).tls_identity(foreign, foreign_proof)),
    ];
    for (what, builder) in impostors {
        let store = builder.build().unwrap();
        assert!(store.get(&key(1)).await.is_err(), "{what}");
        store.shutdown().await;
    }
    // Requests pass all the same.
    let store = impatient(&url).tls_root(theirs.pem).build().unwrap();
    let cache = cache(&store);
    crate::until(async || {
        crate::ask(&cache, crate::post("/")).await;
        store.status().state != LinkState::Closed
    })
    .await;
}

#[test]
fn certificates_that_are_none_or_for_no_tls_are_said_at_once_and_keys_are_not_shown() {
    for (url, root) in [("rediss://localhost", "canary"), ("redis://localhost", &*Authority::new().pem)] {
        let builder = Redis::builder(url).tls_root(root).tls_identity("canary", "canary");
        assert!(!format!("{builder:?}").contains("canary"));
        let error = builder.build().unwrap_err();
        assert!(error.is_config() && !format!("{error:?}").contains("canary"), "{url}");
    }
}
