//! What the router runs with: the command line, the environment, the file, the defaults, in this order.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use http::{HeaderMap, HeaderName, HeaderValue, header};
use serde::Deserialize;
use tower_response_cache::{
    entry::record::SealKeys,
    key::{CREDENTIAL_HEADERS, Key},
    llm::LlmPrices,
    policy::is_hop_by_hop,
    store::{Redis, RedisBuilder},
};

use super::{
    app::StartError,
    cli::{Args, Compressed, SimulatorPace},
    upstream::{Base, Destination, Directory, Upstream},
};

/// What the router runs with.
pub(crate) struct Settings {
    pub(crate) listen: SocketAddr,
    pub(crate) admin_listen: SocketAddr,
    pub(crate) admin_token: Option<String>,
    pub(crate) drain: Duration,
    /// How long a request body may pause.
    pub(crate) body_idle: Duration,
    pub(crate) directory: Directory,
    pub(crate) connect_timeout: Duration,
    /// Until the head of an answer; `None` for no bound.
    pub(crate) upstream_timeout: Option<Duration>,
    pub(crate) pace: SimulatorPace,
    pub(crate) sharing: Shared,
    /// Whose control fields are heeded, and which field names a time to live.
    pub(crate) trust: Option<HeaderName>,
    pub(crate) ttl: Duration,
    pub(crate) read_only: bool,
    /// From 0 to 1.
    pub(crate) ttl_jitter: f64,
    pub(crate) response_tags: bool,
    pub(crate) max_request: usize,
    pub(crate) max_response: usize,
    pub(crate) store: Place,
    pub(crate) prices: LlmPrices,
    pub(crate) cost_headers: bool,
    /// Settings that have no effect, or leave nothing to the cache.
    pub(crate) idle: Vec<&'static str>,
    /// For how long sums of requests are kept.
    pub(crate) metrics_ttl: Duration,
}

/// Whose answers are shared.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Shared {
    PerCredential,
    All,
    /// By tenant, whom this request field names.
    Header(HeaderName),
}

/// Where answers are kept.
pub(crate) enum Place {
    Memory {
        bytes: u64,
    },
    /// With memory in front of it, unless that is 0.
    Redis {
        builder: Box<RedisBuilder>,
        max_connections: usize,
        memory_tier: u64,
    },
}

/// The file.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    listen: Option<SocketAddr>,
    admin_listen: Option<SocketAddr>,
    sharing: Option<String>,
    trust_cache_headers: Option<bool>,
    ttl_header: Option<String>,
    read_only: Option<bool>,
    ttl_jitter_percent: Option<u8>,
    response_tags: Option<bool>,
    lease_seconds: Option<u64>,
    compression: Option<Compressed>,
    default: Option<String>,
    #[serde(default)]
    upstream: Vec<UpstreamTable>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct UpstreamTable {
    name: String,
    url: String,
    #[serde(default)]
    models: Vec<String>,
    #[serde(default)]
    headers: BTreeMap<String, String>,
}

impl Settings {
    pub(crate) fn read(args: Args) -> Result<Self, StartError> {
        let file = args.config.as_deref().map(read_file).transpose()?.unwrap_or_default();
        let admin_listen = args.admin_listen.or(file.admin_listen).unwrap_or(SocketAddr::from(([127, 0, 0, 1], 8081)));
        // Header fields lose blanks around their values, as a line end that came along from a file.
        let admin_token = args.admin_token.map(|token| token.trim().to_owned()).filter(|token| !token.is_empty());
        if admin_token.as_deref().is_some_and(|token| HeaderValue::from_bytes(token.as_bytes()).is_err()) {
            return Err(StartError::usage(
                "the admin token (--admin-token or ROUTER_ADMIN_TOKEN) has a control character in it, which no caller could send",
            ));
        }
        if admin_token.is_none() && !admin_listen.ip().is_loopback() {
            return Err(StartError::usage(format!(
                "the admin listener would be open to others on {admin_listen}: set a token (--admin-token or ROUTER_ADMIN_TOKEN), or listen on a loopback address"
            )));
        }
        let ttl_header = args.ttl_header.clone().or(file.ttl_header).unwrap_or_else(|| "x-cache-ttl".to_owned());
        let ttl_header = header_name(&ttl_header, "the header for times to live")?;
        let ttl_jitter = args.ttl_jitter_percent.or(file.ttl_jitter_percent).unwrap_or_default();
        if ttl_jitter > 100 {
            return Err(StartError::usage(format!("`ttl_jitter_percent` is a number from 0 to 100, not {ttl_jitter}")));
        }
        let lease = args.lease_seconds.or(file.lease_seconds);
        let compression = args.compression.or(file.compression);
        let trusts = args.trust_cache_headers || file.trust_cache_headers.unwrap_or_default();
        let redis = args.redis_url.as_deref().is_some_and(|url| !url.is_empty());
        let read_only = args.read_only || file.read_only.unwrap_or_default();
        let of_redis =
            [args.redis_ca.is_some(), args.redis_cert.is_some(), args.redis_seal_keys.as_deref().is_some_and(|keys| !keys.is_empty())];
        let idle = [
            (args.default_ttl == 0 && !trusts, "a default TTL of 0 stores nothing"),
            (args.max_request == 0, "a longest request of 0 caches no request that has a body"),
            (args.max_response == 0, "a longest response of 0 stores nothing that has a body"),
            (!redis && args.memory == 0, "0 bytes of memory store nothing"),
            (read_only && !redis, "read-only without Redis: there is nothing to serve"),
            (read_only && ttl_jitter > 0, "TTL jitter is ignored: read-only stores nothing"),
            (!redis && lease.is_some(), "the lease is ignored without Redis"),
            (!redis && compression.is_some(), "compression is ignored without Redis"),
            (!redis && of_redis.contains(&true), "certificates and seal keys are ignored without Redis"),
            (args.ttl_header.is_some() && !trusts, "the TTL header is ignored: callers are not trusted"),
            (
                args.upstream.as_deref().is_some_and(|url| !url.is_empty()) && !file.upstream.is_empty(),
                "the upstreams of the file are ignored: one was given",
            ),
        ];
        Ok(Self {
            idle: idle.into_iter().filter_map(|(holds, what)| holds.then_some(what)).collect(),
            read_only,
            ttl_jitter: f64::from(ttl_jitter) / 100.0,
            response_tags: args.response_tags || file.response_tags.unwrap_or_default(),
            listen: args.listen.or(file.listen).unwrap_or(SocketAddr::from(([127, 0, 0, 1], 8080))),
            admin_listen,
            admin_token,
            drain: Duration::from_secs(args.drain_seconds),
            body_idle: Duration::from_secs(args.body_idle_seconds),
            directory: directory(args.upstream.as_deref().filter(|url| !url.is_empty()), file.upstream, file.default)?,
            connect_timeout: Duration::from_secs(args.connect_timeout_seconds),
            upstream_timeout: Some(Duration::from_secs(args.upstream_timeout_seconds)).filter(|bound| !bound.is_zero()),
            pace: args.simulator_pace,
            sharing: sharing(args.sharing.or(file.sharing).as_deref())?,
            trust: Some(ttl_header).filter(|_| trusts),
            ttl: Duration::from_secs(args.default_ttl),
            prices: prices(args.prices.as_deref())?,
            cost_headers: args.cost_headers,
            metrics_ttl: Duration::from_secs(args.metrics_ttl),
            max_request: usize::try_from(args.max_request).unwrap_or(usize::MAX),
            max_response: usize::try_from(args.max_response).unwrap_or(usize::MAX),
            store: match args.redis_url.filter(|url| !url.is_empty()) {
                Some(url) => {
                    let max_connections = usize::try_from(args.redis_max_connections).unwrap_or(usize::MAX);
                    let mut builder = Redis::builder(url).prefix(args.namespace).max_connections(max_connections);
                    if let Some(seconds) = lease {
                        builder = builder.lease(Some(Duration::from_secs(seconds)).filter(|lasts| !lasts.is_zero()));
                    }
                    if let Some(compressed) = compression {
                        builder = builder.compression(compressed.into());
                    }
                    let read = |path: &PathBuf| {
                        std::fs::read(path).map_err(|error| StartError::usage(format!("cannot read {}: {error}", path.display())))
                    };
                    if let Some(path) = &args.redis_ca {
                        builder = builder.tls_root(read(path)?);
                    }
                    if let (Some(certificate), Some(key)) = (&args.redis_cert, &args.redis_key) {
                        builder = builder.tls_identity(read(certificate)?, read(key)?);
                    }
                    if let Some(keys) = args.redis_seal_keys.as_deref().filter(|keys| !keys.is_empty()) {
                        builder = builder.seal(seal_keys(keys)?);
                    }
                    Place::Redis { builder: Box::new(builder), max_connections, memory_tier: args.memory_tier }
                }
                None => Place::Memory { bytes: args.memory },
            },
        })
    }
}

fn prices(path: Option<&Path>) -> Result<LlmPrices, StartError> {
    let Some(path) = path else { return Ok(LlmPrices::embedded()) };
    LlmPrices::embedded().with_file(path).map_err(|error| {
        let why = std::error::Error::source(&error).map(|why| format!(": {why}")).unwrap_or_default();
        StartError::usage(format!("{}: {error}{why}", path.display()))
    })
}

fn read_file(path: &Path) -> Result<File, StartError> {
    let shown = path.display();
    let text = std::fs::read_to_string(path).map_err(|error| StartError::usage(format!("cannot read {shown}: {error}")))?;
    toml::from_str(&text).map_err(|error| {
        let line = error.span().and_then(|span| text.get(..span.start)).map_or(1, |before| before.matches('\n').count() + 1);
        StartError::usage(format!("{shown}:{line}: {}", without_text(error.message()).replace('\n', "; ")))
    })
}

/// What serde says of a value of the wrong kind, without the value: text in the wrong place may be a key.
fn without_text(message: &str) -> String {
    match (message.find("string \""), message.rfind("\", expected")) {
        (Some(start), Some(end)) if start < end => format!("{}string{}", &message[..start], &message[end + 1..]),
        _ => message.to_owned(),
    }
}

fn directory(single: Option<&str>, tables: Vec<UpstreamTable>, default: Option<String>) -> Result<Directory, StartError> {
    if let Some(url) = single {
        let base = Base::parse(url).map_err(|wrong| StartError::usage(format!("what --upstream or ROUTER_UPSTREAM says {wrong}")))?;
        return Ok(Directory::single(Upstream {
            name: "upstream".to_owned(),
            destination: Destination::Http(base),
            headers: HeaderMap::new(),
        }));
    }
    let mut upstreams: Vec<Arc<Upstream>> = Vec::new();
    let mut rules: Vec<(String, Arc<Upstream>)> = Vec::new();
    for table in tables {
        let name = table.name.clone();
        if name.is_empty() || name == SIMULATOR || upstreams.iter().any(|upstream| upstream.name == name) {
            return Err(StartError::usage(format!("the name of upstream `{name}` is taken or empty: each needs one of its own")));
        }
        let (upstream, models) = upstream(table)?;
        let upstream = Arc::new(upstream);
        for prefix in models {
            if prefix.is_empty() || prefix.contains('*') {
                return Err(StartError::usage(format!(
                    "models `{prefix}` of upstream `{name}`: these are beginnings of names, as in `gpt-`, without `*`; `default` names who has all others"
                )));
            }
            if let Some((_, other)) = rules.iter().find(|(taken, _)| *taken == prefix) {
                return Err(StartError::usage(format!(
                    "models `{prefix}*` go to both `{}` and `{name}`: only one can have them",
                    other.name
                )));
            }
            rules.push((prefix, Arc::clone(&upstream)));
        }
        upstreams.push(upstream);
    }
    let default = match (default, upstreams.as_slice()) {
        (None, []) => Arc::new(simulator()),
        (None, [only]) => Arc::clone(only),
        // Made-up answers are not to stand in for a model that somebody mistyped.
        (None, _) => {
            return Err(StartError::usage(format!(
                "several upstreams and no `default`: name the one for all other models, {} or \"{SIMULATOR}\"",
                quoted(&upstreams)
            )));
        }
        (Some(name), _) if name == SIMULATOR => Arc::new(simulator()),
        (Some(name), _) => match upstreams.iter().find(|upstream| upstream.name == name) {
            Some(upstream) => Arc::clone(upstream),
            None => {
                return Err(StartError::usage(format!(
                    "the default upstream `{name}` is not there: name one of {} \"{SIMULATOR}\"",
                    quoted(&upstreams)
                )));
            }
        },
    };
    Ok(Directory::new(rules, default))
}

const SIMULATOR: &str = "simulator";

fn simulator() -> Upstream {
    Upstream { name: SIMULATOR.to_owned(), destination: Destination::Simulator, headers: HeaderMap::new() }
}

fn quoted(upstreams: &[Arc<Upstream>]) -> String {
    upstreams.iter().map(|upstream| format!("\"{}\",", upstream.name)).collect::<Vec<_>>().join(" ")
}

fn upstream(table: UpstreamTable) -> Result<(Upstream, Vec<String>), StartError> {
    let UpstreamTable { name, url, models, headers } = table;
    let destination = if url == SIMULATOR {
        Destination::Simulator
    } else {
        Destination::Http(Base::parse(&url).map_err(|wrong| StartError::usage(format!("the url of upstream `{name}` {wrong}")))?)
    };
    let mut map = HeaderMap::new();
    for (field, value) in headers {
        let field_name = header_name(&field, &format!("a header of upstream `{name}`"))?;
        if is_of_the_connection(&field_name) {
            return Err(StartError::usage(format!(
                "header `{field}` of upstream `{name}` cannot be set: the router's connection decides it"
            )));
        }
        let value = expand(&value).map_err(|wrong| StartError::usage(format!("header `{field}` of upstream `{name}`: {wrong}")))?;
        let mut value = HeaderValue::from_str(&value).map_err(|_| {
            StartError::usage(format!("header `{field}` of upstream `{name}` has characters in it that no header may have"))
        })?;
        value.set_sensitive(true);
        map.insert(field_name, value);
    }
    Ok((Upstream { name, destination, headers: map }, models))
}

/// Fields that say where a message goes and where it ends.
fn is_of_the_connection(name: &HeaderName) -> bool {
    is_hop_by_hop(name) || [header::HOST, header::CONTENT_LENGTH, header::EXPECT].contains(name)
}

/// Puts environment variables in place of `${NAME}`.
fn expand(text: &str) -> Result<String, String> {
    let mut expanded = String::new();
    let mut rest = text;
    while let Some(start) = rest.find("${") {
        let Some(len) = rest[start..].find('}') else { return Err("`${` without `}`".to_owned()) };
        let name = &rest[start + 2..start + len];
        let value = std::env::var(name).ok().filter(|value| !value.is_empty());
        let value = value.ok_or_else(|| format!("the environment variable `{name}` is not set, or empty"))?;
        expanded.push_str(&rest[..start]);
        expanded.push_str(&value);
        rest = &rest[start + len + 1..];
    }
    expanded.push_str(rest);
    Ok(expanded)
}

/// Keys as in `2:HEX,1:HEX`. What is wrong with them is said without them.
fn seal_keys(text: &str) -> Result<SealKeys, StartError> {
    let wrong = || StartError::usage("REDIS_SEAL_KEYS is id:64-hex-digits, and more after commas, with an id of its own for each key");
    let mut keys: Option<SealKeys> = None;
    let mut ids = Vec::new();
    for part in text.split(',') {
        let (id, digits) = part.trim().split_once(':').ok_or_else(wrong)?;
        let id = id.parse().ok().filter(|id: &u32| !ids.contains(id)).ok_or_else(wrong)?;
        let key = *digits.parse::<Key>().map_err(|_| wrong())?.as_bytes();
        ids.push(id);
        keys = Some(match keys {
            None => SealKeys::new(id, key),
            Some(keys) => keys.and(id, key),
        });
    }
    keys.ok_or_else(wrong)
}

fn sharing(text: Option<&str>) -> Result<Shared, StartError> {
    match text.unwrap_or("per-credential") {
        "per-credential" => Ok(Shared::PerCredential),
        "shared" => Ok(Shared::All),
        other => match other.strip_prefix("header:") {
            Some(name) => {
                let name = header_name(name, "the header for tenants")?;
                if is_of_the_connection(&name) {
                    return Err(StartError::usage(format!("`{name}` is about the connection and names no tenant")));
                }
                // A tenant's name is shown to operators, and kept.
                if CREDENTIAL_HEADERS.contains(&name.as_str()) {
                    return Err(StartError::usage(format!(
                        "`{name}` is a credential and names no tenant: sharing is `per-credential` by it already"
                    )));
                }
                Ok(Shared::Header(name))
            }
            None => Err(StartError::usage(format!("sharing is `per-credential`, `shared` or `header:NAME`, not `{other}`"))),
        },
    }
}

fn header_name(text: &str, what: &str) -> Result<HeaderName, StartError> {
    text.parse().map_err(|_| StartError::usage(format!("{what} cannot be called `{text}`")))
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;

    fn read(toml: &str, args: &[&str]) -> Result<Settings, String> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(&file, toml).unwrap();
        let mut fixed = vec!["router", "--config", file.path().to_str().unwrap()];
        if !args.contains(&"--redis-url") {
            fixed.extend(["--redis-url", ""]);
        }
        let args = fixed.iter().chain(args);
        let settings = Settings::read(Args::try_parse_from(args).unwrap());
        settings.map_err(|error| error.to_string().replace(file.path().to_str().unwrap(), "FILE"))
    }

    #[test]
    fn the_sample_file_is_right() {
        // Its keys come from variables that are not set here.
        let sample = include_str!("router.toml").replace("${", "$ {");
        let settings = read(&sample, &[]).unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(settings.directory.choose(Some("gpt-4o")).name, "openai");
        assert_eq!(settings.directory.choose(Some("claude-sonnet-4-5")).name, "anthropic");
        assert_eq!(settings.directory.choose(Some("gemini-2.5-pro")).name, "google");
        assert_eq!(settings.sharing, Shared::PerCredential);
        assert!(settings.trust.is_none());
    }

    #[test]
    fn what_has_no_effect_is_named_and_nothing_else_is() {
        for (file, args, expected) in [
            ("", &[][..], &[][..]),
            ("ttl_header = \"x-ttl\"", &[], &[]),
            ("", &["--default-ttl", "0"], &["a default TTL of 0 stores nothing"]),
            ("", &["--default-ttl", "0", "--trust-cache-headers"], &[]),
            (
                "",
                &["--memory", "0", "--max-response", "0"],
                &["a longest response of 0 stores nothing that has a body", "0 bytes of memory store nothing"],
            ),
            (
                "lease_seconds = 5\ncompression = \"off\"",
                &[],
                &["the lease is ignored without Redis", "compression is ignored without Redis"],
            ),
            ("lease_seconds = 5\ncompression = \"off\"", &["--redis-url", "redis://localhost"], &[]),
            ("read_only = true", &["--redis-url", "redis://localhost"], &[]),
            (
                "read_only = true\nttl_jitter_percent = 10",
                &["--redis-url", "redis://localhost"],
                &["TTL jitter is ignored: read-only stores nothing"],
            ),
            ("", &["--ttl-header", "x-ttl"], &["the TTL header is ignored: callers are not trusted"]),
        ] {
            let settings = read(file, args).unwrap_or_else(|error| panic!("{error}"));
            assert_eq!(settings.idle, expected, "{file} {args:?}");
        }
    }

    #[test]
    fn soft_settings_come_from_the_file_and_the_command_line() {
        let file = "read_only = true\nttl_jitter_percent = 20\nresponse_tags = true\n";
        let settings = read(file, &[]).unwrap_or_else(|error| panic!("{error}"));
        assert_eq!((settings.read_only, settings.ttl_jitter, settings.response_tags), (true, 0.2, true));
        let settings = read(file, &["--ttl-jitter-percent", "5"]).unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(settings.ttl_jitter, 0.05);
        let wrong = read("ttl_jitter_percent = 101", &[]).err().unwrap();
        assert!(wrong.contains("0 to 100"), "{wrong}");
    }

    #[test]
    fn the_command_line_goes_before_the_file_and_the_file_before_the_defaults() {
        let file = "listen = \"127.0.0.1:1\"\nsharing = \"shared\"\n";
        let settings = read(file, &["--listen", "127.0.0.1:2"]).unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(settings.listen.port(), 2);
        assert_eq!(settings.admin_listen.port(), 8081);
        assert_eq!(settings.sharing, Shared::All);
        let settings = read(file, &["--sharing", "header:X-Tenant"]).unwrap_or_else(|error| panic!("{error}"));
        assert_eq!((settings.listen.port(), settings.sharing), (1, Shared::Header(HeaderName::from_static("x-tenant"))));
    }

    #[test]
    fn keys_that_seal_are_taken_in_order_and_never_shown() {
        let [one, two] = ["1".repeat(64), "ab".repeat(32)];
        assert!(format!("{:?}", seal_keys(&format!("7:{one}, 2:{two}")).unwrap_or_else(|error| panic!("{error}"))).contains("[7, 2]"));
        for wrong in ["", "7", &one, &format!("x:{one}"), &format!("7:{one}1"), &format!("7:{one},7:{two}"), &format!("7:{one},")] {
            let error = seal_keys(wrong).err().unwrap_or_else(|| panic!("taken: {wrong}")).to_string();
            assert!(error.contains("REDIS_SEAL_KEYS") && !error.contains("1111"), "{error}");
        }
    }

    #[test]
    fn what_is_wrong_is_said_in_one_line_that_says_what_to_do() {
        let one = "[[upstream]]\nname = \"a\"\nurl = \"http://h\"\n";
        let two = format!("{one}models = [\"x\"]\n[[upstream]]\nname = \"b\"\nurl = \"http://h\"\n");
        for (toml, expected) in [
            ("listen = \"nowhere\"".to_owned(), "FILE:1: "),
            (
                "\n[[upstream]]\nname = \"a\"\nurl = \"http://h\"\nmodles = []".to_owned(),
                "FILE:5: unknown field `modles`, expected one of ",
            ),
            ("[[upstream]]\nname = \"a\"\n".to_owned(), "missing field `url`"),
            ("[[upstream]]\nname = \"a\"\nurl = \"https://u:hush@h\"\n".to_owned(), "the url of upstream `a` has credentials in it"),
            (format!("{one}{one}"), "the name of upstream `a` is taken"),
            (two.clone(), "no `default`: name the one for all other models, \"a\", \"b\", or \"simulator\""),
            (format!("default = \"c\"\n{two}"), "the default upstream `c` is not there"),
            (format!("default = \"a\"\n{two}models = [\"x\"]\n"), "models `x*` go to both `a` and `b`"),
            (
                format!("{one}headers = {{ authorization = \"Bearer ${{ROUTER_TEST_UNSET}}\" }}\n"),
                "`ROUTER_TEST_UNSET` is not set, or empty",
            ),
            (format!("{one}headers = {{ \"no name\" = \"x\" }}\n"), "a header of upstream `a` cannot be called `no name`"),
            (format!("{one}models = [\"gpt-*\"]\n"), "models `gpt-*` of upstream `a`: these are beginnings of names"),
            (format!("{one}models = [\"\"]\n"), "models `` of upstream `a`"),
            (format!("{one}headers = \"Bearer hush\"\n"), "FILE:4: invalid type: string, expected a map"),
            ("upstream = \"hu, \\\"expected\\\", hush\"\n".to_owned(), "FILE:1: invalid type: string, expected a sequence"),
            (format!("{one}headers = {{ Host = \"x\" }}\n"), "header `Host` of upstream `a` cannot be set"),
            (format!("{one}headers = {{ transfer-encoding = \"x\" }}\n"), "`transfer-encoding` of upstream `a` cannot be set"),
            (format!("{one}headers = {{ content-length = \"5\" }}\n"), "`content-length` of upstream `a` cannot be set"),
            ("sharing = \"header:host\"".to_owned(), "`host` is about the connection and names no tenant"),
            ("sharing = \"header:X-Api-Key\"".to_owned(), "`x-api-key` is a credential and names no tenant"),
            ("sharing = \"everyone\"".to_owned(), "sharing is `per-credential`, `shared` or `header:NAME`, not `everyone`"),
            ("admin_listen = \"0.0.0.0:8081\"".to_owned(), "set a token (--admin-token or ROUTER_ADMIN_TOKEN)"),
        ] {
            let error = read(&toml, &[]).err().unwrap_or_else(|| panic!("taken: {toml}"));
            assert!(error.contains(expected) && !error.contains('\n') && !error.contains("hush"), "{toml}\n{error}");
        }
        assert!(read("admin_listen = \"0.0.0.0:8081\"", &["--admin-token", " \n"]).is_err(), "blanks are no token");
        assert_eq!(read("admin_listen = \"0.0.0.0:8081\"", &["--admin-token", " t\n"]).unwrap().admin_token.as_deref(), Some("t"));
        for token in ["hu\nsh", "hu\u{1b}sh"] {
            let error = read("", &["--admin-token", token]).err().unwrap_or_else(|| panic!("taken: {token:?}"));
            assert!(error.contains("ROUTER_ADMIN_TOKEN") && !error.contains("hush"), "{error}");
        }
        assert!(read("", &["--admin-token", "gr\u{fc}n"]).is_ok());
    }
}
