//! Faults that a caller orders by the name of the model.

use http::StatusCode;

/// What goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// An error instead of an answer.
    Status(StatusCode),
    /// The answer begins well, with a 200, and turns into an error half-way.
    InStream,
    /// The answer stops half-way. The body ends as if all were well.
    Cut,
    /// The model declines.
    Refusal,
    /// The model has nothing to say.
    Empty,
}

impl Fault {
    /// The fault that a model is named after: the name is, or ends in, `sim-` and the fault.
    pub(crate) fn of(model: &str) -> Option<Self> {
        let (_, fault) = model.rsplit_once("sim-")?;
        match fault {
            "error-in-stream" => Some(Self::InStream),
            "cut" => Some(Self::Cut),
            "refusal" => Some(Self::Refusal),
            "empty" => Some(Self::Empty),
            _ => {
                let status: StatusCode = fault.strip_prefix("error-")?.parse().ok()?;
                (status.is_client_error() || status.is_server_error()).then_some(Self::Status(status))
            }
        }
    }
}
