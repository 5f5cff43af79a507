//! The requests of the protocol, one method each.

use std::collections::BTreeMap;

use super::conn::Conn;
use super::error::{ErrCode, NutError};
use crate::site::Secret;

/// One line of `LIST UPS`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UpsEntry {
    /// Name in ups.conf.
    pub name: String,
    /// `desc` in ups.conf.
    pub description: String,
}

impl Conn {
    /// `VER`: the server's version, as it says it.
    pub async fn version(&mut self) -> Result<String, NutError> {
        Ok(self.ask("VER", &[]).await?.join(" "))
    }

    /// `NETVER`: the protocol's version, e.g. "1.3".
    pub async fn protocol_version(&mut self) -> Result<String, NutError> {
        Ok(self.ask("NETVER", &[]).await?.join(" "))
    }

    /// `LIST UPS`.
    pub async fn list_ups(&mut self) -> Result<Vec<UpsEntry>, NutError> {
        let rows = self.list("LIST UPS", "UPS", &[]).await?;
        Ok(rows.into_iter().filter_map(|row| pair(row).map(|(name, description)| UpsEntry { name, description })).collect())
    }

    /// `LIST VAR`: all variables of a UPS.
    pub async fn list_vars(&mut self, ups: &str) -> Result<BTreeMap<String, String>, NutError> {
        Ok(self.list("LIST VAR", "VAR", &[ups]).await?.into_iter().filter_map(pair).collect())
    }

    /// `LIST VAR` of several UPSes in one round trip; the inner error is upsd's refusal for that one UPS.
    pub async fn list_vars_of(&mut self, upses: &[&str]) -> Result<Vec<Result<BTreeMap<String, String>, ErrCode>>, NutError> {
        let args: Vec<&[&str]> = upses.iter().map(std::slice::from_ref).collect();
        let answers = self.lists("LIST VAR", "VAR", &args).await?;
        Ok(answers.into_iter().map(|rows| rows.map(|rows| rows.into_iter().filter_map(pair).collect())).collect())
    }

    /// `LIST CMD`: instant commands of a UPS.
    pub async fn list_commands(&mut self, ups: &str) -> Result<Vec<String>, NutError> {
        Ok(firsts(self.list("LIST CMD", "CMD", &[ups]).await?))
    }

    /// `LIST CLIENT`: addresses of those who hold a LOGIN on the UPS.
    pub async fn list_clients(&mut self, ups: &str) -> Result<Vec<String>, NutError> {
        Ok(firsts(self.list("LIST CLIENT", "CLIENT", &[ups]).await?))
    }

    /// `GET VAR`.
    pub async fn get_var(&mut self, ups: &str, name: &str) -> Result<String, NutError> {
        let answer = self.ask("GET VAR", &[("the UPS's name", ups.as_bytes()), ("the variable's name", name.as_bytes())]).await?;
        match answer.as_slice() {
            [var, of, which, value] if var == "VAR" && of == ups && which == name => Ok(value.clone()),
            _ => Err(self.unexpected("GET VAR", answer.join(" ").as_bytes())),
        }
    }

    /// `GET NUMLOGINS`: how many clients hold a LOGIN on the UPS.
    pub async fn num_logins(&mut self, ups: &str) -> Result<u32, NutError> {
        let answer = self.ask("GET NUMLOGINS", &[("the UPS's name", ups.as_bytes())]).await?;
        match answer.as_slice() {
            [kind, of, count] if kind == "NUMLOGINS" && of == ups => count.parse().ok(),
            _ => None,
        }
        .ok_or_else(|| self.unexpected("GET NUMLOGINS", answer.join(" ").as_bytes()))
    }

    /// `USERNAME` and `PASSWORD`. upsd says OK to wrong ones: only what needs them finds out.
    pub async fn credentials(&mut self, username: &str, password: &Secret) -> Result<(), NutError> {
        self.order("USERNAME", &[("the user name", username.as_bytes())]).await?;
        let bytes = password.expose();
        let end = bytes.iter().rposition(|byte| !matches!(byte, b'\r' | b'\n')).map_or(0, |last| last + 1);
        self.order("PASSWORD", &[("the password", &bytes[..end])]).await
    }

    /// `LOGIN`: this connection depends on the UPS; a primary waits for it (HOSTSYNC). One a connection.
    pub async fn login(&mut self, ups: &str) -> Result<(), NutError> {
        self.order("LOGIN", &[("the UPS's name", ups.as_bytes())]).await
    }

    /// `PRIMARY`, or `MASTER` where upsd is older than 2.8: whether the user may manage the UPS, FSD included.
    pub async fn primary(&mut self, ups: &str) -> Result<(), NutError> {
        match self.order("PRIMARY", &[("the UPS's name", ups.as_bytes())]).await {
            Err(NutError::Refused { code: ErrCode::UnknownCommand, .. }) => {
                self.order("MASTER", &[("the UPS's name", ups.as_bytes())]).await
            }
            other => other,
        }
    }

    /// `FSD`: forced shutdown of everybody on that UPS. upsd keeps it until it is restarted.
    pub async fn forced_shutdown(&mut self, ups: &str) -> Result<(), NutError> {
        self.order("FSD", &[("the UPS's name", ups.as_bytes())]).await
    }

    /// `INSTCMD`. That upsd says OK means that the driver was told, not that it was done.
    pub async fn instant_command(&mut self, ups: &str, command: &str, value: Option<&str>) -> Result<(), NutError> {
        let mut args = vec![("the UPS's name", ups.as_bytes()), ("the command", command.as_bytes())];
        args.extend(value.map(|value| ("the value", value.as_bytes())));
        self.order("INSTCMD", &args).await
    }

    /// `SET VAR`. OK means that the driver was told.
    pub async fn set_var(&mut self, ups: &str, name: &str, value: &str) -> Result<(), NutError> {
        let args = [("the UPS's name", ups.as_bytes()), ("the variable's name", name.as_bytes()), ("the value", value.as_bytes())];
        self.order("SET VAR", &args).await
    }

    /// `LOGOUT`.
    pub async fn logout(mut self) -> Result<(), NutError> {
        self.ask("LOGOUT", &[]).await.map(drop)
    }

    /// A request whose only good answer is `OK …`.
    async fn order(&mut self, request: &'static str, args: &[(&'static str, &[u8])]) -> Result<(), NutError> {
        let answer = self.ask(request, args).await?;
        if answer.first().is_some_and(|word| word == "OK") { Ok(()) } else { Err(self.unexpected(request, answer.join(" ").as_bytes())) }
    }

    async fn list(&mut self, request: &'static str, kind: &str, args: &[&str]) -> Result<Vec<Vec<String>>, NutError> {
        let rows = self.lists(request, kind, &[args]).await?.pop().unwrap_or_else(|| Ok(Vec::new()));
        rows.map_err(|code| NutError::Refused { request, code })
    }
}

fn pair(row: Vec<String>) -> Option<(String, String)> {
    let mut words = row.into_iter();
    Some((words.next()?, words.next()?))
}

fn firsts(rows: Vec<Vec<String>>) -> Vec<String> {
    rows.into_iter().filter_map(|row| row.into_iter().next()).collect()
}
