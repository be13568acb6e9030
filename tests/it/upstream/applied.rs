//! What the hostile upstream has applied, as its log has it.

/// One line of the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Applied {
    pub fence: String,
    /// 0 where it came without one.
    pub token: u64,
    pub id: String,
    pub path: String,
    /// Whether it had broken off its answer before.
    pub is_late: bool,
}

impl Applied {
    pub fn parse(line: &str) -> Applied {
        let fields: Vec<&str> = line.split('\t').collect();
        let [fence, token, id, path, late] = fields[..] else { panic!("no line of the log: {line:?}") };
        let token = if token == "-" { 0 } else { token.parse().expect("a token") };
        Applied { fence: fence.into(), token, id: id.into(), path: path.into(), is_late: late == "late" }
    }
}
