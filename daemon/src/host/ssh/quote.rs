//! A command as one line for the shell of the host's user (sshd(8) hands it to that shell whole).

use crate::site::Host;

use super::super::port::Command;

/// The line, with what makes it run as root where the command asks for it.
///
/// # Errors
/// What is wrong with the command: nothing to run, or a NUL, which no argument can hold.
pub fn line(host: &Host, command: &Command) -> Result<String, String> {
    if command.argv.first().is_none_or(String::is_empty) {
        return Err("the command is empty".to_owned());
    }
    if command.argv.iter().any(|argument| argument.contains('\0')) {
        return Err("an argument holds a NUL".to_owned());
    }
    let words = command.argv.iter().map(|argument| quote(argument)).collect::<Vec<_>>().join(" ");
    // sudo's complaints are told by their words, so they must not be translated; env(1), because not every shell takes VAR=value.
    Ok(if command.root && host.sudo { format!("env LC_ALL=C sudo -n -- {words}") } else { words })
}

/// One argument for a POSIX shell (XCU 2.2.2): nothing is special between single quotes but the quote itself.
fn quote(argument: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "_-./:=@%+,".contains(c);
    if !argument.is_empty() && argument.chars().all(plain) {
        return argument.to_owned();
    }
    format!("'{}'", argument.replace('\'', r"'\''"))
}

#[cfg(test)]
#[allow(clippy::disallowed_methods, reason = "a real shell judges the quoting")]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::host::testing::ssh_host;

    fn command(argv: &[&str], root: bool) -> Command {
        Command { argv: argv.iter().map(ToString::to_string).collect(), root }
    }

    #[test]
    fn root_goes_through_sudo_that_never_asks_unless_the_user_is_root_already() {
        let mut host = ssh_host("127.0.0.1", 22);
        let stop = command(&["systemctl", "stop", "k3s-agent.service"], true);
        assert_eq!(line(&host, &stop).unwrap(), "env LC_ALL=C sudo -n -- systemctl stop k3s-agent.service");
        assert_eq!(line(&host, &command(&["echo", "a b", "it's", ""], false)).unwrap(), r"echo 'a b' 'it'\''s' ''");
        host.sudo = false;
        assert_eq!(line(&host, &stop).unwrap(), "systemctl stop k3s-agent.service");
    }

    #[test]
    fn what_no_shell_can_run_is_refused() {
        let host = ssh_host("127.0.0.1", 22);
        for argv in [&[][..], &[""], &["echo", "a\0b"]] {
            assert!(line(&host, &command(argv, false)).is_err(), "{argv:?}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn a_shell_reads_back_what_was_meant(arguments in prop::collection::vec("[^\0]{0,12}", 0..6)) {
            let argv: Vec<String> = ["printf", "%s\\0"].into_iter().map(str::to_owned).chain(arguments.iter().cloned()).collect();
            let line = line(&ssh_host("127.0.0.1", 22), &Command { argv, root: false }).unwrap();
            let out = std::process::Command::new("sh").args(["-c", &line]).output().unwrap();
            let expected: Vec<u8> = if arguments.is_empty() { vec![0] } else { arguments.iter().flat_map(|a| a.bytes().chain([0])).collect() };
            prop_assert_eq!(out.stdout, expected);
        }
    }
}
