use redis::{RedisWrite, ToRedisArgs, ToSingleRedisArg};

/// What comes before each value: what it is, which one it is, and how long.
///
/// Values under one key are told apart by a random number, so that a script can compare without reading them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Frame {
    pub(super) kind: Kind,
    /// Never 0, which stands for "nothing there".
    pub(super) id: u64,
    /// Bytes that follow.
    pub(super) len: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// A record follows.
    Record,
    /// Whatever was here was removed. Expires when no fill can be on its way any more that began before.
    Removed,
}

impl Frame {
    /// Magic and kind, 4 bytes; number, 8; length, 4, big-endian.
    pub(super) const LEN: usize = 16;

    /// Magic, kind and number: enough to tell values apart.
    pub(super) const IDENTITY: usize = 12;

    pub(super) fn new(kind: Kind, len: u32) -> Self {
        Self { kind, id: random(), len }
    }

    pub(super) fn parse(bytes: &[u8]) -> Option<Self> {
        let (magic, rest) = bytes.split_first_chunk::<4>()?;
        let (id, rest) = rest.split_first_chunk::<8>()?;
        let (len, _) = rest.split_first_chunk::<4>()?;
        let kind = match magic {
            RECORD => Kind::Record,
            REMOVED => Kind::Removed,
            _ => return None,
        };
        let id = u64::from_be_bytes(*id);
        (id != 0).then_some(Self { kind, id, len: u32::from_be_bytes(*len) })
    }

    pub(super) fn bytes(self) -> [u8; Self::LEN] {
        let mut bytes = [0; Self::LEN];
        bytes[..4].copy_from_slice(match self.kind {
            Kind::Record => RECORD,
            Kind::Removed => REMOVED,
        });
        bytes[4..12].copy_from_slice(&self.id.to_be_bytes());
        bytes[12..].copy_from_slice(&self.len.to_be_bytes());
        bytes
    }
}

/// Each with the version of the frame.
pub(super) const RECORD: &[u8; 4] = b"trR\x01";
const REMOVED: &[u8; 4] = b"trX\x01";

/// Never 0.
pub(super) fn random() -> u64 {
    fastrand::u64(1..)
}

/// A frame and what follows, as one argument, without a copy in between.
pub(super) struct Framed<'a>(pub(super) Frame, pub(super) &'a [u8]);

impl ToRedisArgs for Framed<'_> {
    fn write_redis_args<W>(&self, out: &mut W)
    where
        W: ?Sized + RedisWrite,
    {
        use std::io::Write as _;
        let mut writer = out.writer_for_next_arg();
        // Writing to memory does not fail.
        let _ = writer.write_all(&self.0.bytes()).and_then(|()| writer.write_all(self.1));
    }
}

impl ToSingleRedisArg for Framed<'_> {}

#[cfg(test)]
mod tests {
    use super::{Frame, Kind};

    #[test]
    fn a_frame_survives_the_way_there_and_back_and_nothing_else_is_one() {
        for kind in [Kind::Record, Kind::Removed] {
            let frame = Frame::new(kind, 70_000);
            assert_eq!(Frame::parse(&frame.bytes()), Some(frame));
            for len in 0..Frame::LEN {
                assert_eq!(Frame::parse(&frame.bytes()[..len]), None);
            }
            let mut foreign = frame.bytes();
            foreign[3] = 2;
            assert_eq!(Frame::parse(&foreign), None);
            assert_eq!(Frame::parse(&Frame { id: 0, ..frame }.bytes()), None);
        }
    }
}
