//! What is found: what is so, what is needed and which key of the file says it, and what to type.

use super::holder::Holder;

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// It is as it should be.
    Ok,
    /// It could be better, or may be too little one day.
    Advice,
    /// It fails at the start, or at the size that the file asks for.
    Breaks,
}

impl Level {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Advice => "advice",
            Self::Breaks => "breaks",
        }
    }
}

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    pub level: Level,
    /// What was looked at; the same words whatever came of it.
    pub subject: &'static str,
    /// What is so.
    pub found: String,
    /// What is needed, and why; nothing where all is well.
    pub needed: String,
    /// For a root shell. All of them, in this order.
    pub commands: Vec<String>,
}

impl Finding {
    pub fn ok(subject: &'static str, found: impl Into<String>) -> Self {
        Self { level: Level::Ok, subject, found: found.into(), needed: String::new(), commands: Vec::new() }
    }

    pub fn advice(subject: &'static str, found: impl Into<String>, needed: impl Into<String>) -> Self {
        Self { level: Level::Advice, needed: needed.into(), ..Self::ok(subject, found) }
    }

    pub fn breaks(subject: &'static str, found: impl Into<String>, needed: impl Into<String>) -> Self {
        Self { level: Level::Breaks, ..Self::advice(subject, found, needed) }
    }

    /// With what mends it.
    pub fn mend(mut self, commands: impl IntoIterator<Item = String>) -> Self {
        self.commands.extend(commands);
        self
    }

    /// With what sets this now and after the next start of the host.
    pub fn sysctl(self, name: &str, value: impl std::fmt::Display) -> Self {
        self.mend([
            format!("sysctl -w {name}=\"{value}\""),
            format!("echo '{name} = {value}' >> /etc/sysctl.d/60-evener.conf"),
        ])
    }

    /// With what gives the unit these lines, where there is one; else with `shell`, which does the same without.
    pub fn unit(self, holder: &Holder, part: &str, lines: &[&str], shell: &str) -> Self {
        let Some(unit) = holder.unit() else { return self.mend([shell.to_owned()]) };
        let folder = format!("/etc/systemd/system/{unit}.d");
        self.mend([
            format!("mkdir -p {folder} && printf '[Service]\\n{}\\n' > {folder}/{part}.conf", lines.join("\\n")),
            format!("systemctl daemon-reload && systemctl restart {unit}"),
        ])
    }
}
