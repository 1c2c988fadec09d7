use std::time::Duration;

use futures_util::{FutureExt as _, future::select_ok};
use redis::{
    AsyncConnectionConfig, Client, ConnectionAddr, ConnectionInfo, IntoConnectionInfo as _, ProtocolVersion, Value,
    aio::MultiplexedConnection,
    io::tcp::{TcpSettings, socket2::TcpKeepalive},
};

use super::fault::Fault;
use crate::error::Error;

/// Where Redis is, as the URL says it: at an address, or wherever Sentinel says that the primary is.
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

const FORMS: &str = "not a URL of redis: it looks like redis://[user:password@]host[:port][/database], or rediss:// with TLS, or \
                     redis+unix:///path, or redis-sentinel://[user:password@]host[:port],host[:port]/service[/database], or rediss-sentinel:// with TLS";

impl Endpoint {
    /// # Errors
    ///
    /// [Config](Error::is_config), if the URL makes no sense. It is not shown, for it may hold a password.
    pub(super) fn parse(url: &str) -> Result<Self, Error> {
        let sentinel = [("redis-sentinel://", "redis"), ("rediss-sentinel://", "rediss")];
        let Some((rest, scheme)) = sentinel.iter().find_map(|(prefix, scheme)| Some((url.strip_prefix(prefix)?, scheme))) else {
            return Ok(Self { server: server(url)?, sentinels: None });
        };
        let malformed = || Error::config(FORMS);
        let (rest, query) = rest.split_once('?').map_or((rest, String::new()), |(rest, query)| (rest, format!("?{query}")));
        let (authority, path) = rest.split_once('/').ok_or_else(malformed)?;
        let (credentials, hosts) = authority.rsplit_once('@').map_or(("", authority), |(credentials, hosts)| (credentials, hosts));
        let (service, database) = path.split_once('/').unwrap_or((path, "0"));
        if service.is_empty() || hosts.split(',').any(str::is_empty) {
            return Err(malformed());
        }
        let at = hosts.split(',').map(|host| {
            // An address of IP version 6 stands in brackets.
            let has_port = host.rsplit_once(':').is_some_and(|(_, port)| !port.contains(']'));
            let port = if has_port { "" } else { ":26379" };
            server(&format!("{scheme}://{host}{port}"))
        });
        let at = at.collect::<Result<_, _>>()?;
        let server =
            server(&format!("{scheme}://{credentials}{}placeholder/{database}{query}", if credentials.is_empty() { "" } else { "@" }))?;
        Ok(Self { server, sentinels: Some(Sentinels { at, service: service.to_owned() }) })
    }

    /// The same, in the protocol that has room for what nobody asked for.
    pub(super) fn in_resp3(mut self) -> Self {
        let redis = self.server.redis_settings().clone().set_protocol(ProtocolVersion::RESP3);
        self.server = self.server.set_redis_settings(redis);
        self
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
        let at = match self.server.addr() {
            ConnectionAddr::TcpTls { insecure, tls_params, .. } => {
                ConnectionAddr::TcpTls { host, port, insecure: *insecure, tls_params: tls_params.clone() }
            }
            _ => ConnectionAddr::Tcp(host, port),
        };
        let mut connection = open(self.server.clone().set_addr(at), config).await?;
        let role = connection.send_packed_command(&redis::cmd("ROLE")).await.map_err(|error| Fault::of_error(&error))?;
        match role {
            Value::Array(role) if matches!(role.first(), Some(Value::BulkString(role)) if role == b"master") => Ok(connection),
            Value::ServerError(error) => Err(Fault::of_server(&error)),
            _ => Err(Fault::Outage("not the primary")),
        }
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
    use super::{ConnectionAddr, Endpoint, server};

    #[test]
    fn a_url_of_sentinels_names_them_the_service_and_the_database() {
        let endpoint = Endpoint::parse("redis-sentinel://user:pass@one:1,two,[::1]:3/main/5?protocol=resp3").unwrap();
        let sentinels = endpoint.sentinels.unwrap();
        let at: Vec<String> = sentinels.at.iter().map(|at| at.addr().to_string()).collect();
        assert_eq!((at, sentinels.service.as_str()), (vec!["one:1".into(), "two:26379".into(), "::1:3".into()], "main"));
        let redis = endpoint.server.redis_settings();
        assert_eq!((redis.db(), redis.username(), redis.password()), (5, Some("user"), Some("pass")));
        assert!(sentinels.at.iter().all(|at| at.redis_settings().password().is_none()));
        assert!(Endpoint::parse("redis://localhost").unwrap().sentinels.is_none());
    }

    #[test]
    fn a_url_of_sentinels_that_makes_no_sense_is_refused_and_not_shown() {
        for url in [
            "redis-sentinel://canary",
            "redis-sentinel://canary/",
            "redis-sentinel:///canary",
            "redis-sentinel://one,,two/canary",
            "redis-sentinel://one:canary/main",
            "redis-sentinel://one/main/canary",
            "redis-sentinel://one/main/0/canary",
        ] {
            let error = Endpoint::parse(url).err().unwrap_or_else(|| panic!("taken: {url}"));
            assert!(error.is_config() && !format!("{error} {error:?}").contains("canary"), "{url}");
        }
    }

    #[cfg(feature = "redis-tls")]
    #[test]
    fn tls_to_sentinels_is_tls_to_the_primary_too() {
        let endpoint = Endpoint::parse("rediss-sentinel://one/main").unwrap();
        let is_tls = |addr: &ConnectionAddr| matches!(addr, ConnectionAddr::TcpTls { insecure: false, .. });
        assert!(is_tls(endpoint.server.addr()) && endpoint.sentinels.unwrap().at.iter().all(|at| is_tls(at.addr())));
        assert!(!is_tls(server("redis://one").unwrap().addr()));
    }
}
