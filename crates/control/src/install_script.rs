//! What a process server at a site runs once at its first start, and so becomes one: its custom data, which cloud-init takes for a script.
//!
//! What it is: [`InstallScript`], a pure function from values to a POSIX shell script. What it never does: put the secret into the arguments of a process, or
//! trust an address: the program comes over TLS that the site's own authority vouches for, or the chain of the certificate that the server was given, and has to have the digest that is said here.
//!
//! The path of one first start: the authority's certificate is written; the program is fetched and its digest compared; it is put in its place by a rename;
//! the host enrols with the secret, from a file in memory that is removed at once; a systemd unit is written and started, or the program itself where there is no
//! systemd. Run again, it leaves out what is done. What fails is said on the console, which the site shows (boot diagnostics).
//!
//! **The secret.** Custom data stays readable in the machine (cloud-init and Azure's agent keep copies), to its root alone. So the secret must be worth nothing
//! once it was used: `InstallScript::secret` says what it has to be.

use std::fmt;
use std::fmt::Write as _;

use zeroize::Zeroizing;

/// What runs; its values are set in front of it.
const BODY: &str = include_str!("install_script/body.sh");

/// What a script is made of. Shows nothing of its secret in `Debug`.
#[derive(Clone)]
pub(crate) struct InstallScript {
    /// The server's name in its site.
    pub(crate) name: String,
    /// The site it serves.
    pub(crate) site: String,
    /// `HOST:PORT` of the configuration server, as the new server reaches it, and as the certificate names it.
    pub(crate) configuration_server: String,
    /// `HOST:PORT` that others reach it at.
    pub(crate) advertise: String,
    /// The port it listens on.
    pub(crate) port: u16,
    /// The path of the program at the configuration server, `/install/switchback`.
    pub(crate) program_path: String,
    /// SHA-256 of the program, 64 hexadecimal digits.
    pub(crate) program_sha256: String,
    /// The certificate of the site's authority, PEM, and after it those of the chain that the configuration server was given for users, if it was.
    pub(crate) authority: String,
    /// With what it enrols. It must be good for one enrolment of this name and role, for an hour at most: the site's passphrase is neither, and must not be here.
    pub(crate) secret: Zeroizing<String>,
}

/// A value that cannot be in a script.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the process server's {what} cannot be used: {problem} [server-script]")]
pub(crate) struct ScriptError {
    /// Which.
    pub(crate) what: &'static str,
    /// What is wrong with it.
    pub(crate) problem: &'static str,
}

impl fmt::Debug for InstallScript {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("InstallScript")
            .field("name", &self.name)
            .field("site", &self.site)
            .field("configuration_server", &self.configuration_server)
            .field("advertise", &self.advertise)
            .finish_non_exhaustive()
    }
}

impl InstallScript {
    /// The script. Whatever the values are, they are data in it.
    ///
    /// # Errors
    /// [`ScriptError`]: a value is empty or has control characters, the digest is none, the certificate is none.
    pub(crate) fn render(&self) -> Result<Zeroizing<String>, ScriptError> {
        self.check()?;
        let listen = format!("0.0.0.0:{}", self.port);
        let words = [
            "/usr/local/bin/switchback",
            "process-server",
            "--server",
            &self.configuration_server,
            "--site",
            &self.site,
            "--data",
            "/var/lib/switchback/spool",
            "--listen",
            &listen,
            "--advertise",
            &self.advertise,
        ];
        let command: Vec<String> = words.iter().map(|word| unit_quote(word)).collect();
        let port = self.port.to_string();
        // Ports below 1024 are not everybody's.
        let capability = if self.port < 1024 { "CAP_NET_BIND_SERVICE" } else { "" };
        let url = format!("https://{}{}", self.configuration_server, self.program_path);
        let values: [(&str, &str); 11] = [
            ("name", &self.name),
            ("site", &self.site),
            ("server", &self.configuration_server),
            ("advertise", &self.advertise),
            ("port", &port),
            ("capability", capability),
            ("url", &url),
            ("digest", &self.program_sha256),
            ("command", &command.join(" ")),
            ("authority", &self.authority),
            ("secret", &self.secret),
        ];
        let mut script = Zeroizing::new("#!/bin/sh\n".to_owned());
        for (key, value) in values {
            // Writing to a string does not fail.
            let _ = writeln!(script, "{key}={}", *quote(value));
        }
        script.push_str(BODY);
        Ok(script)
    }

    fn check(&self) -> Result<(), ScriptError> {
        let lines: [(&'static str, &str); 6] = [
            ("name", &self.name),
            ("site", &self.site),
            ("configuration server", &self.configuration_server),
            ("address for others", &self.advertise),
            ("program's path", &self.program_path),
            ("secret", &self.secret),
        ];
        for (what, value) in lines {
            if value.is_empty() {
                return Err(ScriptError { what, problem: "it is empty" });
            }
            if value.chars().any(char::is_control) {
                return Err(ScriptError {
                    what,
                    problem: "it has a line break or another control character",
                });
            }
            if value.starts_with('-') {
                return Err(ScriptError { what, problem: "it begins with a dash, as options do" });
            }
        }
        let is_digit = |c: char| c.is_ascii_digit() || ('a'..='f').contains(&c);
        if self.program_sha256.len() != 64 || !self.program_sha256.chars().all(is_digit) {
            let problem = "SHA-256 has 64 hexadecimal digits in lower case";
            return Err(ScriptError { what: "program's digest", problem });
        }
        if !self.authority.starts_with("-----BEGIN CERTIFICATE-----") || self.authority.contains('\0') {
            return Err(ScriptError { what: "authority", problem: "it is no certificate in PEM" });
        }
        Ok(())
    }
}

/// One word of a POSIX shell (2.2.2, single quotes).
fn quote(value: &str) -> Zeroizing<String> {
    Zeroizing::new(format!("'{}'", value.replace('\'', r"'\''")))
}

/// One word of a systemd unit's command line (systemd.service(5), "Command lines"; `%` and `$` are doubled).
fn unit_quote(value: &str) -> String {
    let escaped = value.replace('\\', r"\\").replace('"', "\\\"").replace('%', "%%").replace('$', "$$");
    format!("\"{escaped}\"")
}

#[cfg(test)]
mod tests;
