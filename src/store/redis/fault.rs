use redis::{ErrorKind, RedisError, ServerError, ServerErrorKind, Value};

use crate::error::Error;

/// What went wrong, and so what is to be done about it. Nothing of what the server wrote is kept: it may quote keys and values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// No answer within the deadline.
    Timeout,
    /// The connection broke, or could not be made.
    Lost,
    /// The other end does not speak the protocol.
    Garbled,
    /// The server is of no use now: the breaker opens, and connections are made anew.
    Outage(&'static str),
    /// It does not know us. The breaker opens, and asks again only seldom.
    Denied(&'static str),
    /// It answered, and refused this one operation.
    Refused(&'static str),
    /// There is something else than a string under the key.
    WrongType,
    /// It does not know the script.
    NoScript,
    /// It was not asked.
    Spared(&'static str),
}

impl Fault {
    pub(super) fn of_error(error: &RedisError) -> Self {
        match error.kind() {
            ErrorKind::AuthenticationFailed => Self::Denied("authentication failed"),
            ErrorKind::Parse | ErrorKind::UnexpectedReturnType => Self::Garbled,
            ErrorKind::Server(ServerErrorKind::ResponseError) if is_refused_by_script(error.detail()) => Self::Refused("NOPERM"),
            ErrorKind::Server(_) | ErrorKind::Extension => error.code().map_or(Self::Refused("error"), Self::of_code),
            _ => Self::Lost,
        }
    }

    pub(super) fn of_server(error: &ServerError) -> Self {
        match error.kind() {
            Some(ServerErrorKind::ResponseError) if is_refused_by_script(error.details()) => Self::Refused("NOPERM"),
            Some(ServerErrorKind::NoScript) => Self::NoScript,
            _ => Self::of_code(error.code()),
        }
    }

    /// The fault that a reply is, if it is one.
    pub(super) fn of_value(value: &Value) -> Option<Self> {
        match value {
            Value::ServerError(error) => Some(Self::of_server(error)),
            _ => None,
        }
    }

    fn of_code(code: &str) -> Self {
        // The first word of an error reply, as redis.io lists them and as the server's source has them.
        match code {
            "READONLY" => Self::Outage("READONLY"),
            "LOADING" => Self::Outage("LOADING"),
            "MASTERDOWN" => Self::Outage("MASTERDOWN"),
            "CLUSTERDOWN" => Self::Outage("CLUSTERDOWN"),
            "BUSY" => Self::Outage("BUSY"),
            "UNKILLABLE" => Self::Outage("UNKILLABLE"),
            "NOAUTH" => Self::Denied("NOAUTH"),
            "WRONGPASS" => Self::Denied("WRONGPASS"),
            "NOPERM" => Self::Refused("NOPERM"),
            "OOM" => Self::Refused("OOM"),
            "MISCONF" => Self::Refused("MISCONF"),
            "NOREPLICAS" => Self::Refused("NOREPLICAS"),
            "MOVED" => Self::Refused("MOVED"),
            "ASK" => Self::Refused("ASK"),
            "TRYAGAIN" => Self::Refused("TRYAGAIN"),
            "CROSSSLOT" => Self::Refused("CROSSSLOT"),
            "WRONGTYPE" => Self::WrongType,
            "NOSCRIPT" => Self::NoScript,
            _ => Self::Refused("error"),
        }
    }

    /// Does it say something of the connection or the server, and not only of one operation?
    pub(super) fn is_of_the_link(self) -> bool {
        !matches!(self, Self::Refused(_) | Self::WrongType | Self::NoScript | Self::Spared(_))
    }

    /// One word.
    pub(super) fn label(self) -> &'static str {
        match self {
            Self::Timeout => "timeout",
            Self::Lost => "lost",
            Self::Garbled => "garbled",
            Self::Outage(code) | Self::Denied(code) | Self::Refused(code) => code,
            Self::WrongType => "WRONGTYPE",
            Self::NoScript => "NOSCRIPT",
            Self::Spared(_) => "spared",
        }
    }
}

/// Is it what Redis before 7.2 says when a script does what its user may not? Later ones say `NOPERM` there, too.
fn is_refused_by_script(detail: Option<&str>) -> bool {
    detail.is_some_and(|detail| detail.starts_with("The user executing the script can't "))
}

impl From<Fault> for Error {
    fn from(fault: Fault) -> Self {
        match fault {
            Fault::Timeout => Self::timeout("redis did not answer in time"),
            Fault::Lost => Self::unavailable("the connection to redis broke or could not be made"),
            Fault::Garbled => Self::unavailable("what answers does not speak the protocol of redis"),
            Fault::Outage(code) => Self::unavailable(format!("redis is of no use now: {code}")),
            Fault::Denied(code) => Self::refused(format!("redis does not let us in: {code}")),
            Fault::Refused(code) => Self::refused(format!("redis refused: {code}")),
            Fault::WrongType => Self::corrupt("there is something else than a record under the key"),
            Fault::NoScript => Self::refused("redis forgot a script twice"),
            Fault::Spared(why) => Self::unavailable(why),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Fault;

    #[test]
    fn what_the_server_says_decides_what_is_done_and_none_of_its_words_are_kept() {
        let fault = |line: &str| {
            let value = redis::parse_redis_value(format!("-{line}\r\n").as_bytes()).unwrap();
            Fault::of_value(&value).unwrap()
        };
        for (line, expected) in [
            ("READONLY You can't write against a read only replica.", Fault::Outage("READONLY")),
            ("LOADING Redis is loading the dataset in memory", Fault::Outage("LOADING")),
            ("MASTERDOWN Link with MASTER is down", Fault::Outage("MASTERDOWN")),
            ("CLUSTERDOWN The cluster is down", Fault::Outage("CLUSTERDOWN")),
            ("BUSY Redis is busy running a script.", Fault::Outage("BUSY")),
            ("NOAUTH Authentication required.", Fault::Denied("NOAUTH")),
            ("NOPERM this user has no permissions to access 'secret'", Fault::Refused("NOPERM")),
            ("OOM command not allowed", Fault::Refused("OOM")),
            ("MOVED 3999 127.0.0.1:6381", Fault::Refused("MOVED")),
            ("CROSSSLOT Keys in request don't hash to the same slot", Fault::Refused("CROSSSLOT")),
            ("WRONGTYPE Operation against a key", Fault::WrongType),
            ("NOSCRIPT No matching script.", Fault::NoScript),
            // Of a command, and of a key, in a script.
            (
                "ERR The user executing the script can't run this command or subcommand script: secret, on @user_script:1.",
                Fault::Refused("NOPERM"),
            ),
            (
                "ERR The user executing the script can't access at least one of the keys mentioned in the command arguments script: secret",
                Fault::Refused("NOPERM"),
            ),
            ("NOPERM ACL failure in script: User secret has no permissions to run the 'set' command", Fault::Refused("NOPERM")),
            ("ERR secret", Fault::Refused("error")),
            ("SECRET secret", Fault::Refused("error")),
        ] {
            assert_eq!(fault(line), expected, "{line}");
            assert!(!format!("{:?} {}", crate::Error::from(fault(line)), fault(line).label()).to_lowercase().contains("secret"));
        }
    }
}
