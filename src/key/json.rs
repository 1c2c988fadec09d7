//! JSON in canonical form: members sorted, white space gone, strings normalised, numbers kept by their lexeme.

/// How a JSON body is made canonical.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Top-level members to leave out. Never looked for deeper: recursive removal by name destroys real data.
    pub ignore: Vec<String>,
}

/// Appends the canonical form of `body` to `out`. Top-level members of an object are shown to `member` as they are met: the unescaped
/// name and the raw, untouched bytes of the value.
///
/// Returns false, and leaves `out` as it was, where there is no one canonical form: invalid JSON or UTF-8, duplicate names, lone surrogates, depth over 128.
pub fn canonicalize(body: &[u8], options: &Options, out: &mut Vec<u8>, member: &mut dyn FnMut(&str, &[u8])) -> bool {
    let _ = (body, options, out, member);
    false
}
