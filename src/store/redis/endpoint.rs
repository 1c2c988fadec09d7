use std::time::Duration;

use futures_util::{FutureExt as _, future::select_ok};
use redis::{
    AsyncConnectionConfig, Client, ConnectionAddr, ConnectionInfo, IntoConnectionInfo as _, ProtocolVersion, Value,
    aio::MultiplexedConnection,
    io::tcp::{TcpSettings, socket2::TcpKeepalive},
};

use super::{fault::Fault, slots::Address};
use crate::error::Error;

/// Where Redis is, as the URL says it.
pub(super) enum Place {
    One(Box<Endpoint>),
    /// A Cluster, of which these servers tell. There is at least one.
    Cluster(Vec<Endpoint>),
}

/// Where a server is: at an address, or wherever Sentinel says that the primary is.
#[derive(Clone)]
pub(super) struct Endpoint {
    /// How to connect to the server. Behind Sentinel, the address is another each time.
    server: ConnectionInfo,
    sentinels: Option<Sentinels>,
}

#[derive(Clone)]
struct Sentinels {
    at: Vec<ConnectionInfo>,
    service: String,
}

/// Whoever says where the primary is says it so soon.
const SENTINEL_ANSWERS: Duration = Duration::from_secs(1);

const FORMS: &str = "not a URL of redis: it looks like redis://[user:password@]host[:port][/database], or redis+unix:///path, or \
                     redis-sentinel://[user:password@]host[:port],host[:port]/service[/database][?sentinel-user=user&sentinel-password=password], or \
                     redis-cluster://[user:password@]host[:port],host[:port]; with TLS, rediss://, rediss-sentinel:// and rediss-cluster://";

impl Place {
    /// # Errors
    ///
    /// [Config](Error::is_config), if the URL makes no sense. It is not shown, for it may hold a password.
    pub(super) fn parse(url: &str) -> Result<Self, Error> {
        let rest_of =
            |forms: [(&str, &'static str); 2]| forms.into_iter().find_map(|(prefix, scheme)| Some((url.strip_prefix(prefix)?, scheme)));
        if let Some((rest, scheme)) = rest_of([("redis-sentinel://", "redis"), ("rediss-sentinel://", "rediss")]) {
            return behind_sentinels(rest, scheme).map(|endpoint| Self::One(Box::new(endpoint)));
        }
        if let Some((rest, scheme)) = rest_of([("redis-cluster://", "redis"), ("rediss-cluster://", "rediss")]) {
            return cluster(rest, scheme).map(Self::Cluster);
        }
        Ok(Self::One(Box::new(Endpoint { server: server(url)?, sentinels: None })))
    }

    /// With certificates to trust, and perhaps one to show.
    ///
    /// # Errors
    ///
    /// [Config](Error::is_config), if they are none, or the URL is not one of TLS.
    #[cfg(feature = "redis-tls")]
    pub(super) fn with_certificates(self, certificates: &redis::TlsCertificates) -> Result<Self, Error> {
        match self {
            Self::One(endpoint) => endpoint.with_certificates(certificates).map(|endpoint| Self::One(Box::new(endpoint))),
            Self::Cluster(seeds) => {
                let seeds = seeds.into_iter().map(|seed| seed.with_certificates(certificates)).collect::<Result<_, _>>();
                seeds.map(Self::Cluster)
            }
        }
    }
}

/// What comes after the scheme, taken apart. Passwords are still escaped.
struct Parts<'a> {
    /// Empty, or with `@` at its end.
    credentials: &'a str,
    hosts: Vec<&'a str>,
    /// Without the slash that it begins with.
    path: Option<&'a str>,
    query: Vec<(&'a str, &'a str)>,
}

fn parts(rest: &str) -> Result<Parts<'_>, Error> {
    let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
    let (authority, path) = rest.split_once('/').map_or((rest, None), |(authority, path)| (authority, Some(path)));
    let (credentials, hosts) = authority.split_at(authority.rfind('@').map_or(0, |at| at + 1));
    let hosts: Vec<&str> = hosts.split(',').collect();
    if hosts.iter().any(|host| host.is_empty()) {
        return Err(Error::config(FORMS));
    }
    let query = query.split('&').filter(|pair| !pair.is_empty()).map(|pair| pair.split_once('=').unwrap_or((pair, "")));
    Ok(Parts { credentials, hosts, path, query: query.collect() })
}

/// With the port that is usual, if it has none.
fn with_port(host: &str, usual: u16) -> String {
    // An address of IP version 6 stands in brackets.
    let has_port = host.rsplit_once(':').is_some_and(|(_, port)| !port.contains(']'));
    if has_port { host.to_owned() } else { format!("{host}:{usual}") }
}

fn query_of<'a>(pairs: impl Iterator<Item = &'a (&'a str, &'a str)>) -> String {
    let pairs: Vec<String> = pairs.map(|(name, value)| format!("{name}={value}")).collect();
    if pairs.is_empty() { String::new() } else { format!("?{}", pairs.join("&")) }
}

fn behind_sentinels(rest: &str, scheme: &str) -> Result<Endpoint, Error> {
    const USER: &str = "sentinel-user";
    const PASSWORD: &str = "sentinel-password";
    let Parts { credentials, hosts, path, query } = parts(rest)?;
    let path = path.unwrap_or_default();
    let (service, database) = path.split_once('/').unwrap_or((path, "0"));
    if service.is_empty() {
        return Err(Error::config(FORMS));
    }
    let value = |wanted: &str| query.iter().find(|(name, _)| *name == wanted).map(|(_, value)| *value);
    let of_sentinels = match (value(USER), value(PASSWORD)) {
        (None, None) => String::new(),
        (user, Some(password)) => format!("{}:{password}@", user.unwrap_or_default()),
        (Some(_), None) => return Err(Error::config(FORMS)),
    };
    let at = hosts.iter().map(|host| server(&format!("{scheme}://{of_sentinels}{}", with_port(host, 26379))));
    let at = at.collect::<Result<_, _>>()?;
    let query = query_of(query.iter().filter(|(name, _)| ![USER, PASSWORD].contains(name)));
    let server = server(&format!("{scheme}://{credentials}placeholder/{database}{query}"))?;
    Ok(Endpoint { server, sentinels: Some(Sentinels { at, service: service.to_owned() }) })
}

fn cluster(rest: &str, scheme: &str) -> Result<Vec<Endpoint>, Error> {
    let Parts { credentials, hosts, path, query } = parts(rest)?;
    if !matches!(path, None | Some("" | "0")) {
        return Err(Error::config("a redis cluster has one database, which is number 0"));
    }
    let query = query_of(query.iter());
    let seed = |host: &&str| {
        Ok(Endpoint { server: server(&format!("{scheme}://{credentials}{}{query}", with_port(host, 6379)))?, sentinels: None })
    };
    hosts.iter().map(seed).collect()
}

impl Endpoint {
    /// The same way to another server.
    pub(super) fn at(&self, address: &Address) -> Self {
        let server = self.server.clone().set_addr(moved_to(self.server.addr(), address.host.clone(), address.port));
        Self { server, sentinels: None }
    }

    /// The name of the server's machine, as far as it has one.
    pub(super) fn host(&self) -> &str {
        match self.server.addr() {
            ConnectionAddr::Tcp(host, _) | ConnectionAddr::TcpTls { host, .. } => host,
            _ => "",
        }
    }

    /// The same, in the protocol that has room for what nobody asked for.
    pub(super) fn in_resp3(mut self) -> Self {
        let redis = self.server.redis_settings().clone().set_protocol(ProtocolVersion::RESP3);
        self.server = self.server.set_redis_settings(redis);
        self
    }

    #[cfg(feature = "redis-tls")]
    fn with_certificates(self, certificates: &redis::TlsCertificates) -> Result<Self, Error> {
        let with = |info: ConnectionInfo| {
            let client = Client::build_with_tls(info, certificates.clone());
            let refused = |_| {
                Error::config(
                    "certificates for redis are PEM, and for a URL that says TLS: rediss://, rediss-sentinel:// or rediss-cluster://",
                )
            };
            client.map_err(refused).map(|client| client.get_connection_info().clone())
        };
        let sentinels = match self.sentinels {
            None => None,
            Some(Sentinels { at, service }) => Some(Sentinels { at: at.into_iter().map(with).collect::<Result<_, _>>()?, service }),
        };
        Ok(Self { server: with(self.server)?, sentinels })
    }

    pub(super) async fn connect(&self, config: &AsyncConnectionConfig) -> Result<MultiplexedConnection, Fault> {
        let Some(sentinels) = &self.sentinels else { return open(self.server.clone(), config).await };
        // A sentinel that is cut off knows an old primary: whichever leads to one that says it is primary, first.
        let ways = sentinels.at.iter().map(|sentinel| self.by_way_of(sentinel, &sentinels.service, config).boxed());
        select_ok(ways).await.map(|(connection, _)| connection)
    }

    async fn by_way_of(
        &self,
        sentinel: &ConnectionInfo,
        service: &str,
        config: &AsyncConnectionConfig,
    ) -> Result<MultiplexedConnection, Fault> {
        let quiet =
            AsyncConnectionConfig::new().set_connection_timeout(Some(SENTINEL_ANSWERS)).set_response_timeout(Some(SENTINEL_ANSWERS));
        let mut asked = open(sentinel.clone(), &quiet).await?;
        let mut command = redis::cmd("SENTINEL");
        command.arg("GET-MASTER-ADDR-BY-NAME").arg(service);
        let reply = asked.send_packed_command(&command).await.map_err(|error| Fault::of_error(&error))?;
        drop(asked);
        let (host, port) = address(&reply).ok_or(Fault::Outage("the sentinel knows no primary"))?;
        let mut connection = open(self.server.clone().set_addr(moved_to(self.server.addr(), host, port)), config).await?;
        let role = connection.send_packed_command(&redis::cmd("ROLE")).await.map_err(|error| Fault::of_error(&error))?;
        match role {
            Value::Array(role) if matches!(role.first(), Some(Value::BulkString(role)) if role == b"master") => Ok(connection),
            Value::ServerError(error) => Err(Fault::of_server(&error)),
            _ => Err(Fault::Outage("not the primary")),
        }
    }
}

/// An address of the same kind.
fn moved_to(addr: &ConnectionAddr, host: String, port: u16) -> ConnectionAddr {
    match addr {
        ConnectionAddr::TcpTls { insecure, tls_params, .. } => {
            ConnectionAddr::TcpTls { host, port, insecure: *insecure, tls_params: tls_params.clone() }
        }
        _ => ConnectionAddr::Tcp(host, port),
    }
}

async fn open(info: ConnectionInfo, config: &AsyncConnectionConfig) -> Result<MultiplexedConnection, Fault> {
    let client = Client::open(info).map_err(|error| Fault::of_error(&error))?;
    client.get_multiplexed_async_connection_with_config(config).await.map_err(|error| Fault::of_error(&error))
}

fn address(reply: &Value) -> Option<(String, u16)> {
    let Value::Array(reply) = reply else { return None };
    let [Value::BulkString(host), Value::BulkString(port)] = reply.as_slice() else { return None };
    Some((String::from_utf8(host.clone()).ok()?, std::str::from_utf8(port).ok()?.parse().ok()?))
}

fn server(url: &str) -> Result<ConnectionInfo, Error> {
    if !cfg!(feature = "redis-tls") && ["rediss:", "valkeys:"].iter().any(|scheme| url.starts_with(scheme)) {
        return Err(Error::config("for TLS to redis, build with the feature `redis-tls`"));
    }
    // The client's own words may quote the URL.
    let info = url.into_connection_info().map_err(|_| Error::config(FORMS))?;
    if !info.addr().is_supported() {
        return Err(Error::config("this kind of connection to redis is not there on this platform"));
    }
    #[cfg(feature = "redis-tls")]
    if matches!(info.addr(), ConnectionAddr::TcpTls { .. }) && rustls::crypto::CryptoProvider::get_default().is_none() {
        // Another may be faster than we are; either is fine.
        let _ = rustls::crypto::ring::default_provider().install_default();
    }
    let keepalive = TcpKeepalive::new().with_time(Duration::from_secs(5));
    #[cfg(any(target_os = "linux", target_os = "macos", target_os = "android"))]
    let keepalive = keepalive.with_interval(Duration::from_secs(2)).with_retries(3);
    let tcp = TcpSettings::default().set_nodelay(true).set_keepalive(keepalive);
    #[cfg(any(target_os = "linux", target_os = "android", target_os = "fuchsia"))]
    let tcp = tcp.set_user_timeout(Duration::from_secs(5));
    let redis = info.redis_settings().clone().set_skip_set_lib_name();
    Ok(info.set_tcp_settings(tcp).set_redis_settings(redis))
}

#[cfg(test)]
mod tests {
    #[cfg(feature = "redis-tls")]
    use super::{ConnectionAddr, server};
    use super::{Endpoint, Place, ProtocolVersion};
    use crate::store::redis::slots::Address;

    fn one(url: &str) -> Endpoint {
        match Place::parse(url) {
            Ok(Place::One(endpoint)) => *endpoint,
            _ => panic!("not one: {url}"),
        }
    }

    fn seeds(url: &str) -> Vec<Endpoint> {
        match Place::parse(url) {
            Ok(Place::Cluster(seeds)) => seeds,
            _ => panic!("not a cluster: {url}"),
        }
    }

    #[test]
    fn a_url_of_sentinels_names_them_the_service_and_the_database() {
        let endpoint = one("redis-sentinel://user:pass@one:1,two,[::1]:3/main/5?protocol=resp3");
        let sentinels = endpoint.sentinels.unwrap();
        let at: Vec<String> = sentinels.at.iter().map(|at| at.addr().to_string()).collect();
        assert_eq!((at, sentinels.service.as_str()), (vec!["one:1".into(), "two:26379".into(), "::1:3".into()], "main"));
        let redis = endpoint.server.redis_settings();
        assert_eq!((redis.db(), redis.username(), redis.password()), (5, Some("user"), Some("pass")));
        assert!(sentinels.at.iter().all(|at| at.redis_settings().password().is_none()));
        assert!(one("redis://localhost").sentinels.is_none());
    }

    #[test]
    fn sentinels_have_credentials_of_their_own() {
        let endpoint = one("redis-sentinel://user:pass@one,two/main?sentinel-user=watch&protocol=resp3&sentinel-password=a%40b");
        let of_server = endpoint.server.redis_settings();
        assert_eq!((of_server.username(), of_server.password()), (Some("user"), Some("pass")));
        for at in endpoint.sentinels.unwrap().at {
            assert_eq!((at.redis_settings().username(), at.redis_settings().password()), (Some("watch"), Some("a@b")));
        }
        let endpoint = one("redis-sentinel://one/main?sentinel-password=x");
        assert_eq!(endpoint.server.redis_settings().password(), None);
        let at = &endpoint.sentinels.unwrap().at[0];
        assert_eq!((at.redis_settings().username(), at.redis_settings().password()), (None, Some("x")));
    }

    #[test]
    fn a_url_of_a_cluster_names_some_of_its_servers() {
        let seeds = seeds("redis-cluster://user:p%40ss@one:1,two,[::1]:3?protocol=resp3");
        let at: Vec<String> = seeds.iter().map(|seed| seed.server.addr().to_string()).collect();
        assert_eq!(at, ["one:1", "two:6379", "::1:3"]);
        assert_eq!(seeds[2].host(), "::1");
        for endpoint in seeds.iter().cloned().chain([seeds[0].at(&Address { host: "other".into(), port: 9 })]) {
            let redis = endpoint.server.redis_settings();
            assert_eq!((redis.username(), redis.password(), redis.protocol()), (Some("user"), Some("p@ss"), ProtocolVersion::RESP3));
        }
        assert_eq!(seeds[0].at(&Address { host: "other".into(), port: 9 }).server.addr().to_string(), "other:9");
        assert_eq!(self::seeds("redis-cluster://one/0").len(), 1);
    }

    #[test]
    fn a_url_of_sentinels_or_a_cluster_that_makes_no_sense_is_refused_and_not_shown() {
        for url in [
            "redis-sentinel://canary",
            "redis-sentinel://canary/",
            "redis-sentinel:///canary",
            "redis-sentinel://one,,two/canary",
            "redis-sentinel://one:canary/main",
            "redis-sentinel://one/main/canary",
            "redis-sentinel://one/main/0/canary",
            "redis-sentinel://one/main?sentinel-user=canary",
            "redis-sentinel://one/main?sentinel-password=ca/na#ry",
            "redis-cluster://",
            "redis-cluster://canary@",
            "redis-cluster://one,,canary",
            "redis-cluster://one:canary",
            "redis-cluster://one,canary/1",
            "redis-cluster://one/canary",
        ] {
            let error = Place::parse(url).err().unwrap_or_else(|| panic!("taken: {url}"));
            assert!(error.is_config() && !format!("{error} {error:?}").contains("canary"), "{url}");
        }
    }

    #[cfg(feature = "redis-tls")]
    #[test]
    fn tls_to_sentinels_or_one_of_a_cluster_is_tls_to_all_others() {
        let endpoint = one("rediss-sentinel://one/main");
        let is_tls = |addr: &ConnectionAddr| matches!(addr, ConnectionAddr::TcpTls { insecure: false, .. });
        assert!(is_tls(endpoint.server.addr()) && endpoint.sentinels.unwrap().at.iter().all(|at| is_tls(at.addr())));
        assert!(!is_tls(server("redis://one").unwrap().addr()));
        let seeds = seeds("rediss-cluster://one,two");
        assert!(seeds.iter().all(|seed| is_tls(seed.server.addr())));
        assert!(is_tls(seeds[1].at(&Address { host: "other".into(), port: 9 }).server.addr()));
    }
}
