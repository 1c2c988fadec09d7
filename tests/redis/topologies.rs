//! Wherever Redis is, the store finds it, and goes after it when it moves.

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use tower_response_cache::store::{LinkState, Redis, Store, Tiered};

use crate::{
    clusters::Cluster,
    fill, key,
    outages::{Load, cache, impatient},
    patient, record,
    server::{Fleet, Sentinel, Server, free_port},
    settings::PERMISSIONS,
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

/// What a server shows, and whom it trusts: on the command line.
struct Files {
    _directory: tempfile::TempDir,
    arguments: Vec<String>,
}

impl Files {
    /// Of one who shows what the authority has issued, and asks others for the same.
    fn of(authority: &Authority) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let file = |name: &str, text: &str| {
            let path = directory.path().join(name);
            std::fs::write(&path, text).unwrap();
            path.to_str().unwrap().to_owned()
        };
        let (certificate, key) = authority.issue();
        let files = [file("server.pem", &certificate), file("server.key", &key), file("ca.pem", &authority.pem)];
        let names = ["--tls-cert-file", "--tls-key-file", "--tls-ca-cert-file"].map(str::to_owned);
        let arguments = ["--tls-auth-clients", "yes"].map(str::to_owned).into_iter();
        Self {
            arguments: arguments.chain(names.into_iter().zip(files).flat_map(|(name, file)| [name, file])).collect(),
            _directory: directory,
        }
    }

    fn and<'a>(&'a self, further: &[&'a str]) -> Vec<&'a str> {
        self.arguments.iter().map(String::as_str).chain(further.iter().copied()).collect()
    }

    /// The same, as lines of a file.
    fn lines(&self) -> String {
        self.arguments.chunks(2).map(|pair| format!("{} {}\n", pair[0].trim_start_matches('-'), pair[1])).collect()
    }
}

#[tokio::test]
async fn over_tls_each_side_believes_only_certificates_of_those_it_trusts() {
    let (ours, theirs) = (Authority::new(), Authority::new());
    let files = Files::of(&ours);
    let port = free_port().to_string();
    let _server = Server::start_with(&files.and(&["--tls-port", &port]));
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

#[tokio::test]
async fn sentinels_over_tls_with_credentials_of_their_own_lead_to_a_primary_over_tls() {
    let (ours, theirs) = (Authority::new(), Authority::new());
    let files = Files::of(&ours);
    let [of_server, of_sentinel] = [free_port(), free_port()];
    let server = Server::start_with(&files.and(&["--tls-port", &of_server.to_string(), "--tls-replication", "yes"]));
    let source = include_str!("../../src/store/redis/mod.rs").replace("\n//! ", " ");
    // The permissions are those that are published, of both.
    let permissions = format!("{PERMISSIONS} +role");
    assert!(source.contains("Behind Sentinel, `+role` as well"));
    let mut command = vec!["ACL", "SETUSER", "cache", "on", ">password", "~t:*"];
    command.extend(permissions.split(' '));
    let () = server.run(&command);
    let asks = "+sentinel|get-master-addr-by-name";
    assert!(source.contains(&format!("`ACL SETUSER watch on >password {asks}`")), "the documentation says something else");
    let further = format!("tls-port {of_sentinel}\ntls-replication yes\nuser watch on >password {asks}\n{}", files.lines());
    let _sentinel = Sentinel::start(of_server, 1, &further);

    let url = |of_sentinel_user: &str| {
        format!("rediss-sentinel://cache:password@127.0.0.1:{of_sentinel}/main?sentinel-user={of_sentinel_user}&sentinel-password=password")
    };
    let (certificate, proof) = ours.issue();
    let with = |url: &str, root: &str| patient(url).tls_root(root).tls_identity(certificate.clone(), proof.clone()).build().unwrap();
    let store = with(&url("watch"), &ours.pem);
    assert!(fill(&store, &key(1), record("in private")).await);
    assert_eq!(stored(&store, &key(1)).await.as_deref(), Some("in private"));
    assert!(server.run::<String>(&["CLIENT", "LIST"]).contains("user=cache"));

    for (what, store) in [
        ("a sentinel that another vouches for", with(&url("watch"), &theirs.pem)),
        ("a sentinel that does not know us", with(&url("canary"), &ours.pem)),
        (
            "a sentinel that wants to know who asks",
            with(&format!("rediss-sentinel://canary:canary@127.0.0.1:{of_sentinel}/main"), &ours.pem),
        ),
    ] {
        let error = store.get(&key(1)).await.expect_err(what);
        assert!(!format!("{error} {error:?} {store:?}").contains("canary"), "{what}");
        store.shutdown().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn when_a_primary_over_tls_is_killed_under_load_no_request_fails_and_hits_come_from_the_next() {
    let ours = Authority::new();
    let files = Files::of(&ours);
    let mut fleet = Fleet::over_tls(&files.and(&[]), &files.lines());
    let (certificate, proof) = ours.issue();
    let store = impatient(fleet.url()).tls_root(ours.pem.clone()).tls_identity(certificate, proof).build().unwrap();
    let load = Load::on(&cache(&store));
    load.hits(500).await;
    fleet.primary.kill();
    crate::until(async || store.status().state != LinkState::Closed).await;
    load.answers(500).await;
    crate::until(async || store.status().state == LinkState::Closed).await;
    load.hits(500).await;
    load.end().await;
    assert!(fleet.replica.run::<String>(&["INFO", "replication"]).contains("role:master"));
    assert!(!fleet.replica.records("t").is_empty());
}

#[tokio::test]
async fn a_cluster_over_tls_is_spoken_to_over_tls_on_every_server() {
    let (ours, theirs) = (Authority::new(), Authority::new());
    let files = Files::of(&ours);
    let cluster = Cluster::over_tls(&files.and(&[]));
    let (certificate, proof) = ours.issue();
    let url = cluster.url_with("rediss-cluster://");
    let store = patient(&url).tls_root(ours.pem.clone()).tls_identity(certificate.clone(), proof.clone()).build().unwrap();
    let tiered = Tiered::new(store.clone(), 1 << 20);
    for number in 0..30 {
        assert!(fill(&store, &key(number), record("in private")).await);
        assert!(tiered.get(&key(number)).await.unwrap().record.is_some());
    }
    crate::until(async || tiered.status().tracked).await;
    assert!(cluster.primaries.iter().all(|primary| !primary.records("t").is_empty()));
    let impostors = [("a server that another vouches for", theirs.pem, true), ("a client that shows nothing", ours.pem, false)];
    for (what, root, shows) in impostors {
        let builder = patient(&url).tls_root(root);
        let builder = if shows { builder.tls_identity(certificate.clone(), proof.clone()) } else { builder };
        let store = builder.build().unwrap();
        assert!(store.get(&key(1)).await.is_err(), "{what}");
        store.shutdown().await;
    }
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
