//! Real peers: nginx as the origin, curl and reqwest as clients, HTTP/1.1 and HTTP/2.

use std::{
    fs,
    io::Read as _,
    net::{SocketAddr, TcpListener},
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, SystemTime},
};

use http::StatusCode;
use tempfile::TempDir;
use tokio::net::TcpStream;
use tower::{Service, ServiceBuilder};
use tower_response_cache::{CacheLayer, CacheOptions, HttpPolicy, Mode, convert::ConvertLayer, store::Memory};

use crate::script::{Rig, memory};

/// nginx on a port of its own, in a directory of its own. Killed and reaped when dropped.
struct Nginx {
    child: Child,
    address: SocketAddr,
    directory: TempDir,
}

impl Nginx {
    async fn start() -> Self {
        let directory = tempfile::tempdir().unwrap();
        fs::create_dir(directory.path().join("files")).unwrap();
        // Another may take the port between our look and the server's: then the next one.
        for _ in 0..20 {
            let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
            let mut child = spawn(&directory, address);
            for _ in 0..500 {
                if child.try_wait().unwrap().is_some() {
                    break;
                }
                if TcpStream::connect(address).await.is_ok() {
                    return Self { child, address, directory };
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            child.kill().ok();
            child.wait().unwrap();
        }
        panic!("nginx does not come up: {}", fs::read_to_string(directory.path().join("error.log")).unwrap_or_default());
    }

    /// A file as of so many seconds ago.
    fn write(&self, name: &str, content: &str, ago: u64) {
        let path = self.directory.path().join("files").join(name);
        fs::write(&path, content).unwrap();
        let modified = SystemTime::now() - Duration::from_secs(ago);
        fs::File::options().write(true).open(path).unwrap().set_modified(modified).unwrap();
    }

    /// SIGKILL.
    fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// The requests that it had. It writes them down once they have ended, and that may be a moment after they are answered.
    fn log(&self) -> Vec<String> {
        let log = fs::read_to_string(self.directory.path().join("access.log")).unwrap_or_default();
        log.lines().map(str::to_owned).collect()
    }

    /// As many of them, and no more.
    async fn asked(&self, times: usize) -> Vec<String> {
        for _ in 0..2000 {
            if self.log().len() >= times {
                break;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        let log = self.log();
        assert_eq!(log.len(), times, "{log:#?}");
        log
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

fn spawn(directory: &TempDir, address: SocketAddr) -> Child {
    let path = directory.path().display();
    let temporary = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"].map(|kind| format!("{kind}_temp_path {path}/{kind};")).join(" ");
    let configuration = format!(
        "daemon off; master_process off; pid {path}/pid; error_log {path}/error.log;
         events {{ worker_connections 256; }}
         http {{
             {temporary}
             log_format plain '$request $status $http_if_none_match $http_if_modified_since $http_range $http_if_range';
             access_log {path}/access.log plain;
             types {{ text/plain txt; }}
             gzip on; gzip_types text/plain; gzip_min_length 100; gzip_vary on; gzip_proxied any;
             etag on;
             server {{
                 listen {address};
                 root {path}/files;
                 add_header Cache-Control max-age=60;
             }}
         }}"
    );
    let file = directory.path().join("nginx.conf");
    fs::write(&file, configuration).unwrap();
    // Debian keeps it where only root looks for programs.
    let found = ["/usr/sbin/nginx", "/usr/local/sbin/nginx"].into_iter().find(|program| Path::new(program).exists());
    let mut command = Command::new(found.unwrap_or("nginx"));
    command.arg("-p").arg(directory.path()).arg("-c").arg(file).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.spawn().expect("nginx is installed")
}

/// Eight kilobytes that compress.
fn page(text: &str) -> String {
    format!("{text:->10};").repeat(745)
}

/// The proxy in front of nginx, at the present time: nginx dates its responses by its own clock.
async fn in_front_of(nginx: &Nginx) -> Rig {
    Rig::in_front_of_at(HttpPolicy::shared().rfc(), &memory(), nginx.address, SystemTime::now()).await
}

#[tokio::test]
async fn what_nginx_serves_is_stored_validated_and_cut_as_nginx_means_it() {
    let mut nginx = Nginx::start().await;
    nginx.write("page.txt", &page("one"), 1000);
    nginx.write("short.txt", "0123456789", 1000);
    let rig = in_front_of(&nginx).await;
    let play = async |case: String| rig.play(&case).await.unwrap_or_else(|problem| panic!("{problem}\nnginx: {:#?}", nginx.log()));

    // A whole page, and all that can be told by it.
    let one = page("one");
    let whole = format!("Content-Length: {} | Content-Type: text/plain | @{one}", one.len());
    play(format!("> GET /page.txt\n= 200 | #origin | ETag: * | Last-Modified: * | Accept-Ranges: bytes | {whole}")).await;
    play(format!("> GET /page.txt\n= 200 | #fresh | Age: * | Server: ~nginx | {whole}")).await;
    play(format!("> HEAD /page.txt\n= 200 | #fresh | Content-Length: {} | @", one.len())).await;
    play(format!("> GET /page.txt | Range: bytes=11-21\n= 206 | #fresh | Content-Range: bytes 11-21/{} | @{}", one.len(), &one[11..22]))
        .await;
    play("> GET /page.txt | If-None-Match: *\n= 304 | #fresh | ETag: *".into()).await;
    nginx.asked(1).await;
    play(format!("> GET /page.txt | Cache-Control: no-cache\n= 200 | Cache-Status: ~fwd=request; fwd-status=304 | {whole}")).await;
    play(format!("> GET /page.txt\n= 200 | #fresh | {whole}")).await;
    assert!(nginx.asked(2).await[1].contains(" 304 "));

    // It changes.
    nginx.write("page.txt", &page("two"), 10);
    play(format!("> GET /page.txt | Cache-Control: no-cache\n= 200 | Cache-Status: ~fwd=request; fwd-status=200 | @{}", page("two"))).await;
    play(format!("> GET /page.txt\n= 200 | #fresh | @{}", page("two"))).await;

    // Its first half, and then the rest of it, on the condition that it is the same.
    play("> GET /short.txt | Range: bytes=0-3\n= 206 | #origin | Content-Range: bytes 0-3/10 | @0123".into()).await;
    play("> GET /short.txt | Range: bytes=1-2\n= 206 | #fresh | @12".into()).await;
    play("> GET /short.txt\n= 200 | Cache-Status: ~fwd=partial; fwd-status=206 | Content-Length: 10 | !Content-Range | @0123456789".into())
        .await;
    play("> GET /short.txt\n= 200 | #fresh | @0123456789".into()).await;
    assert!(nginx.asked(5).await[4].contains("bytes=4- "));

    // Its errors are its own, and without freshness are not kept.
    play("> GET /none.txt\n= 404 | #origin".into()).await;
    play("> GET /none.txt\n= 404 | #origin".into()).await;
    play("> POST /page.txt | @x\n= 405 | #origin".into()).await;
    play("> GET /page.txt\n= 200 | #fresh".into()).await;

    // It is gone.
    nginx.kill();
    rig.play("+ 70\n> GET /page.txt\n= 200 | Cache-Status: ~stale-if-error | Age: *\n> GET /other.txt\n= 502").await.unwrap();
}

#[tokio::test]
async fn what_nginx_compresses_is_a_variant_of_its_own() {
    let nginx = Nginx::start().await;
    nginx.write("page.txt", &page("one"), 1000);
    let rig = in_front_of(&nginx).await;
    let get = async |encoding: &str, directive: &str| {
        let fields = [("Accept-Encoding", encoding), ("Cache-Control", directive)].map(|(name, value)| (name.to_owned(), value.to_owned()));
        let answer = rig.send("GET", "/page.txt", &fields, b"").await.unwrap();
        (answer.field("cache-status").unwrap(), answer.field("content-encoding"), answer.field("etag").unwrap(), answer.body)
    };
    for round in ["uri-miss", "hit", "fwd=request; fwd-status=304", "hit"] {
        let directive = if round.contains("304") { "no-cache" } else { "none" };
        // Spelled otherwise, and in another order, it is the same that is accepted.
        for (accepted, again) in [("gzip, br", "BR ,gzip"), ("identity", "identity")] {
            let (status, encoding, tag, body) = get(if round == "hit" { again } else { accepted }, directive).await;
            let expected = if round == "uri-miss" && accepted == "identity" { "vary-miss" } else { round };
            assert!(status.contains(expected), "{accepted}: {status}, not {expected}: {:#?}", nginx.log());
            // One that is compressed on the way is the same in meaning alone, and its tag says so.
            assert_eq!(tag.starts_with("W/"), accepted != "identity", "{tag}");
            match encoding.as_deref() {
                Some("gzip") => assert_eq!((gunzip(&body), accepted), (page("one"), "gzip, br")),
                other => assert_eq!((other, body, accepted), (None, page("one").into_bytes(), "identity")),
            }
        }
    }
    let log = nginx.asked(4).await;
    let statuses = |status: &str| log.iter().filter(|line| line.contains(&format!(" {status} "))).count();
    assert_eq!((statuses("200"), statuses("304")), (2, 2), "{log:?}");
}

fn gunzip(body: &[u8]) -> String {
    let mut text = String::new();
    flate2::read::GzDecoder::new(body).read_to_string(&mut text).unwrap();
    text
}

/// Runs curl, and returns what it says of the response: status, protocol, `cache-status`, and the content.
async fn curl(rig: &Rig, directory: &Path, arguments: &[&str]) -> (String, String) {
    let mut command = tokio::process::Command::new("curl");
    command.current_dir(directory).env_remove("http_proxy").kill_on_drop(true);
    command.args(["--silent", "--show-error", "--max-time", "20", "--noproxy", "*", "--output", "body"]);
    command
        .args(["--write-out", "%{http_code} %{http_version} %header{cache-status}"])
        .args(arguments)
        .arg(format!("http://{}/page.txt", rig.proxy));
    // One of before does not stand in for one that curl does not write.
    fs::remove_file(directory.join("body")).ok();
    let output = command.output().await.expect("curl is installed");
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    let body = fs::read_to_string(directory.join("body")).unwrap_or_default();
    (String::from_utf8(output.stdout).unwrap(), body)
}

#[tokio::test]
async fn curl_is_told_that_what_it_has_is_still_what_there_is() {
    let nginx = Nginx::start().await;
    nginx.write("page.txt", &page("one"), 1000);
    let rig = in_front_of(&nginx).await;
    let own = tempfile::tempdir().unwrap();
    for version in ["--http1.1", "--http2-prior-knowledge"] {
        let number = if version == "--http1.1" { "1.1" } else { "2" };
        let tags = ["--etag-save", "tag", "--etag-compare", "tag", version];
        fs::remove_file(own.path().join("tag")).ok();
        let first = if number == "2" { "hit; ttl=" } else { "fwd=uri-miss; fwd-status=200; stored" };
        let (told, body) = curl(&rig, own.path(), &tags).await;
        assert_eq!((told.split(';').next().unwrap(), body), (&*format!("200 {number} tower-response-cache"), page("one")));
        assert!(told.contains(first), "{told}");
        let (told, body) = curl(&rig, own.path(), &tags).await;
        assert!(told.starts_with(&format!("304 {number} tower-response-cache; hit; ttl=")), "{told}");
        assert_eq!(body, "");
        for (arguments, status, content) in [
            (&["--range", "11-21", version][..], "206", &page("one")[11..22]),
            (&["--time-cond", "01 Jan 2038", version], "304", ""),
            (&["--head", version], "200", ""),
        ] {
            let (told, body) = curl(&rig, own.path(), arguments).await;
            assert!(told.starts_with(&format!("{status} {number} tower-response-cache; hit; ttl=")), "{arguments:?}: {told}");
            // For a head, curl writes the head.
            if arguments[0] != "--head" {
                assert_eq!(body, content, "{arguments:?}");
            }
        }
    }
    let (told, body) = curl(&rig, own.path(), &["--compressed"]).await;
    assert!(told.contains("vary-miss; fwd-status=200; stored"), "{told}");
    assert_eq!(body, page("one"), "curl can read what nginx compressed, and the proxy did not touch");
    let (told, body) = curl(&rig, own.path(), &["--compressed", "--http2-prior-knowledge"]).await;
    assert!(told.starts_with("200 2 ") && told.contains("; hit"), "{told}");
    assert_eq!(body, page("one"));
    nginx.asked(2).await;

    // It changes, and curl has something else then.
    nginx.write("page.txt", &page("two"), 10);
    rig.clock.advance(Duration::from_secs(70));
    let (told, body) = curl(&rig, own.path(), &["--etag-save", "tag", "--etag-compare", "tag"]).await;
    assert!(told.starts_with("200 1.1 ") && told.contains("fwd=stale; fwd-status=200; stored"), "{told}");
    assert_eq!(body, page("two"));
}

/// A private cache as a browser has one, around reqwest, in front of the proxy, in front of nginx.
#[tokio::test]
async fn a_browsers_cache_in_front_of_the_proxy_asks_as_its_mode_says() {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let nginx = Nginx::start().await;
    nginx.write("page.txt", &page("one"), 1000);
    let rig = in_front_of(&nginx).await;
    let reqwest = reqwest::Client::builder().no_proxy().build().unwrap();
    let store = Memory::new(1 << 20).clock(rig.clock.clone());
    let mut browser = ServiceBuilder::new()
        .layer(CacheLayer::new(store, HttpPolicy::private()).clock(rig.clock.clone()).name("browser"))
        .layer(ConvertLayer::new(reqwest::Body::wrap))
        .service(reqwest.clone());
    // As fetch does it: with the options of the cache mode, or the field that it sends.
    let mut fetch = async |options: CacheOptions, directive: &str| {
        let mut request = reqwest.get(format!("http://{}/page.txt", rig.proxy));
        if !directive.is_empty() {
            request = request.header("cache-control", directive);
        }
        let mut request: http::Request<reqwest::Body> = request.build().unwrap().try_into().unwrap();
        request.extensions_mut().insert(options);
        let response = browser.call(request).await.unwrap();
        let response = reqwest::Response::from(response.map(reqwest::Body::wrap));
        let said = response.headers().get_all("cache-status").iter().map(|line| line.to_str().unwrap()).collect::<Vec<_>>().join(", ");
        (response.status(), said, response.text().await.unwrap())
    };
    let later = || rig.clock.advance(Duration::from_secs(5));
    let plain = CacheOptions::new;
    // Mode, options and field, and what both caches say; then how often nginx was asked.
    for (mode, options, directive, said, asked) in [
        (
            "default, empty",
            plain(),
            "",
            "tower-response-cache; fwd=uri-miss; fwd-status=200; stored, browser; fwd=uri-miss; fwd-status=200; stored",
            1,
        ),
        ("default", plain(), "", "tower-response-cache; fwd=uri-miss; fwd-status=200; stored, browser; hit; ttl=", 1),
        ("no-cache", plain(), "no-cache", "tower-response-cache; fwd=request; fwd-status=304; ttl=", 2),
        ("reload", plain().mode(Mode::WriteOnly), "no-cache", "tower-response-cache; fwd=request; fwd-status=304; ttl=", 3),
        ("reload by the key", plain(), "max-age=0", "tower-response-cache; fwd=request; fwd-status=304; ttl=", 4),
        ("only-if-cached", plain().only_if_cached(), "", "browser; hit; ttl=", 4),
        ("no-store", plain().mode(Mode::Off), "", "tower-response-cache; hit; ttl=", 4),
    ] {
        later();
        let (status, told, body) = fetch(options, directive).await;
        assert_eq!((status, body), (StatusCode::OK, page("one")), "{mode}: {told}");
        assert!(told.contains(said), "{mode}: {told}, not {said}");
        nginx.asked(asked).await;
    }
    // However old, without a word to anybody.
    rig.clock.advance(Duration::from_secs(1000));
    let (status, told, body) = fetch(plain(), "max-stale").await;
    assert_eq!((status, body), (StatusCode::OK, page("one")));
    assert!(told.contains("browser; hit; detail=max-stale; ttl=-"), "{told}");
    let (status, told, _) = fetch(plain().only_if_cached(), "").await;
    assert_eq!((status, told.as_str()), (StatusCode::GATEWAY_TIMEOUT, "browser; detail=only-if-cached"));
    nginx.asked(4).await;
    // Stale for both: one asks the other, who asks nginx, and both go on with what they have.
    let (status, told, body) = fetch(plain(), "").await;
    assert_eq!((status, body), (StatusCode::OK, page("one")));
    assert!(told.contains("browser; fwd=stale; fwd-status=304; ttl="), "{told}");
    assert!(nginx.asked(5).await[4].contains(" 304 "));
}
