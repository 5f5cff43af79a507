//! Users, as `useradd` would make them: `passwd`, `shadow`, `group`, `gshadow`, `subuid`, `subgid`, homes, keys, sudo. They exist at the
//! first boot whether the image has cloud-init or not; cloud-init is told to make none.

use std::collections::BTreeSet;

use super::super::facts::TextFile;
use super::edit::FileEdit;
use super::{Job, RenderError, valid};
use crate::site::SshUser;

/// Ranges of Debian's and Ubuntu's login.defs(5).
const USER_IDS: std::ops::RangeInclusive<u32> = 1000..=59_999;
const SYSTEM_IDS: std::ops::RangeInclusive<u32> = 100..=999;
const SUB_IDS_FIRST: u64 = 100_000;
const SUB_IDS: u64 = 65_536;
const SUDOERS: &str = "/etc/sudoers.d/90-metis";

pub(super) fn render(job: &Job<'_>) -> Result<Vec<FileEdit>, RenderError> {
    let users = &job.node.settings.ssh.users;
    if users.is_empty() {
        return Ok(Vec::new());
    }
    check(job)?;
    let mut tables = Tables::read(job)?;
    let mut edits = Vec::new();
    for (name, user) in users {
        let account = tables.user(name, job.facts.has_bash).ok_or_else(|| job.image_lacks("ssh.users", "has no free user id"))?;
        for group in user.groups.as_deref().unwrap_or_default() {
            tables.join(name, group).ok_or_else(|| job.image_lacks("ssh.users", "has no free group id"))?;
        }
        let key = format!("ssh.users.{name}.password_hash");
        let hash = user.password_hash.as_ref().map(|reference| hash(job, &key, reference)).transpose()?;
        tables.shadow(name, hash);
        edits.extend(home(job, &account, user)?);
    }
    let mut all = tables.edits();
    all.extend(edits);
    all.extend(sudo(job));
    Ok(all)
}

fn check(job: &Job<'_>) -> Result<(), RenderError> {
    for (name, user) in &job.node.settings.ssh.users {
        valid::account(name).map_err(|why| job.bad_value("ssh.users", name, why))?;
        for group in user.groups.iter().flatten() {
            valid::account(group).map_err(|why| job.bad_value(&format!("ssh.users.{name}.groups"), group, why))?;
        }
        for line in user.keys.iter().flatten() {
            valid::authorized_key(line).map_err(|why| job.bad_value(&format!("ssh.users.{name}.keys"), line, why))?;
        }
    }
    Ok(())
}

/// A crypt(5) hash. Anything else (above all a password in clear) would lock the user out or be stored where it must not be.
fn hash<'a>(job: &'a Job<'_>, key: &str, reference: &crate::site::SecretRef) -> Result<&'a str, RenderError> {
    let hash = job.secret_line(key, reference)?;
    let plain = hash.bytes().all(|b| b.is_ascii_graphic() && !matches!(b, b':' | b';' | b'*' | b'!' | b'\\'));
    if hash.starts_with('$') && hash.matches('$').count() >= 3 && plain {
        Ok(hash)
    } else {
        Err(job.bad_secret(key, reference, "is not a crypt(5) hash such as `mkpasswd -m yescrypt` prints"))
    }
}

struct Account {
    uid: u32,
    gid: u32,
    home: String,
}

/// A home and its `authorized_keys`. Whose keys the inventory does not name keeps those of the image.
fn home(job: &Job<'_>, account: &Account, user: &SshUser) -> Result<Vec<FileEdit>, RenderError> {
    let Account { uid, gid, home } = account;
    if !home.starts_with('/') || home.split('/').any(|part| part == "..") {
        return Err(job.bad_value("ssh.users", home, "is the home of a user in the image's /etc/passwd, but no absolute path"));
    }
    let home = home.trim_end_matches('/');
    let mut edits = vec![FileEdit::dir(home, 0o750, true).owned(*uid, *gid)];
    if let Some(keys) = &user.keys {
        let text = keys.iter().fold(String::new(), |text, key| text + key.trim() + "\n");
        edits.push(FileEdit::dir(format!("{home}/.ssh"), 0o700, false).owned(*uid, *gid));
        edits.push(FileEdit::file(format!("{home}/.ssh/authorized_keys"), 0o600, text).owned(*uid, *gid));
    }
    Ok(edits)
}

fn sudo(job: &Job<'_>) -> Vec<FileEdit> {
    let users = job.node.settings.ssh.users.iter().filter(|(_, user)| user.sudo == Some(true));
    let text = users.fold(String::new(), |text, (name, _)| text + name + " ALL=(ALL:ALL) NOPASSWD: ALL\n");
    if text.is_empty() {
        return Vec::new();
    }
    let mut edits = vec![FileEdit::file(SUDOERS, 0o440, text)];
    if let Some(file) = &job.facts.sudoers {
        // `#includedir` is no comment (sudoers(5)).
        let included =
            file.text.lines().map(str::trim).any(|line| matches!(line, "@includedir /etc/sudoers.d" | "#includedir /etc/sudoers.d"));
        if !included {
            let text = format!("{}\n@includedir /etc/sudoers.d\n", file.text.trim_end_matches('\n'));
            edits.push(FileEdit::file("/etc/sudoers", file.mode, text).owned(file.uid, file.gid).repair());
        }
    }
    edits
}

/// One of the colon-separated tables. Lines keep their order; what is not understood is kept as it is.
struct Table {
    path: &'static str,
    lines: Vec<Vec<String>>,
    file: TextFile,
    secret: bool,
}

impl Table {
    fn of(path: &'static str, file: Option<&TextFile>, default_mode: u32) -> Self {
        let file = file.cloned().unwrap_or(TextFile { mode: default_mode, ..TextFile::default() });
        let lines = file.text.lines().map(|line| line.split(':').map(str::to_owned).collect()).collect();
        Self { path, lines, file, secret: default_mode == 0o640 }
    }

    fn find(&mut self, name: &str) -> Option<&mut Vec<String>> {
        self.lines.iter_mut().find(|line| line.first().is_some_and(|first| first == name))
    }

    fn add(&mut self, fields: &[&str]) {
        self.lines.push(fields.iter().map(|field| (*field).to_owned()).collect());
    }

    fn ids(&self, field: usize) -> BTreeSet<u32> {
        self.lines.iter().filter_map(|line| line.get(field)?.parse().ok()).collect()
    }

    fn edit(&self) -> FileEdit {
        let text = self.lines.iter().fold(String::new(), |text, line| text + &line.join(":") + "\n");
        let edit = FileEdit::file(self.path, self.file.mode, text).owned(self.file.uid, self.file.gid);
        if self.secret { edit.secret() } else { edit }
    }
}

struct Tables {
    passwd: Table,
    group: Table,
    shadow: Table,
    gshadow: Option<Table>,
    sub: Vec<Table>,
}

impl Tables {
    fn read(job: &Job<'_>) -> Result<Self, RenderError> {
        let facts = job.facts;
        if facts.passwd.is_none() || facts.group.is_none() {
            return Err(job.image_lacks("ssh.users", "has no /etc/passwd or no /etc/group to add users to"));
        }
        let sub = [("/etc/subuid", &facts.subuid), ("/etc/subgid", &facts.subgid)];
        Ok(Self {
            passwd: Table::of("/etc/passwd", facts.passwd.as_ref(), 0o644),
            group: Table::of("/etc/group", facts.group.as_ref(), 0o644),
            shadow: Table::of("/etc/shadow", facts.shadow.as_ref(), 0o640),
            gshadow: facts.gshadow.as_ref().map(|file| Table::of("/etc/gshadow", Some(file), 0o640)),
            sub: sub.into_iter().filter_map(|(path, file)| Some(Table::of(path, Some(file.as_ref()?), 0o644))).collect(),
        })
    }

    /// The user, made if there is none: with a group of its own, as Debian does.
    fn user(&mut self, name: &str, bash: bool) -> Option<Account> {
        if let Some(account) = self.passwd.find(name).and_then(|line| account(line)) {
            return Some(account);
        }
        let (uids, gids) = (self.passwd.ids(2), self.group.ids(2));
        let known_group = self.group.find(name).and_then(|line| line.get(2)?.parse().ok());
        let uid = USER_IDS.clone().find(|id| !uids.contains(id) && (known_group.is_some() || !gids.contains(id)))?;
        let gid = known_group.unwrap_or(uid);
        if known_group.is_none() {
            self.add_group(name, gid);
        }
        let home = format!("/home/{name}");
        let shell = if bash { "/bin/bash" } else { "/bin/sh" };
        self.passwd.add(&[name, "x", &uid.to_string(), &gid.to_string(), "", &home, shell]);
        for table in &mut self.sub {
            let end = |line: &Vec<String>| Some(line.get(1)?.parse::<u64>().ok()? + line.get(2)?.parse::<u64>().ok()?);
            let first = table.lines.iter().filter_map(end).max().unwrap_or_default().max(SUB_IDS_FIRST);
            if table.find(name).is_none() {
                table.add(&[name, &first.to_string(), &SUB_IDS.to_string()]);
            }
        }
        Some(Account { uid, gid, home })
    }

    fn add_group(&mut self, name: &str, gid: u32) {
        self.group.add(&[name, "x", &gid.to_string(), ""]);
        if let Some(gshadow) = &mut self.gshadow
            && gshadow.find(name).is_none()
        {
            gshadow.add(&[name, "!", "", ""]);
        }
    }

    /// Makes the user a member; a group that the image lacks is made as a system group, from the top down (groupadd -r).
    fn join(&mut self, user: &str, group: &str) -> Option<()> {
        if self.group.find(group).is_none() {
            let gids = self.group.ids(2);
            let gid = SYSTEM_IDS.rev().find(|id| !gids.contains(id))?;
            self.add_group(group, gid);
        }
        for table in std::iter::once(&mut self.group).chain(&mut self.gshadow) {
            if let Some(members) = table.find(group).and_then(|line| line.get_mut(3))
                && !members.split(',').any(|member| member == user)
            {
                if !members.is_empty() {
                    members.push(',');
                }
                members.push_str(user);
            }
        }
        Some(())
    }

    /// The user's line of shadow(5). Without a hash a new user has `*`: no password, but not locked, so that keys work without PAM too.
    fn shadow(&mut self, name: &str, hash: Option<&str>) {
        let Some(line) = self.shadow.find(name) else {
            // No date of the last change: no ageing, and no clock is asked.
            return self.shadow.add(&[name, hash.unwrap_or("*"), "", "0", "99999", "7", "", "", ""]);
        };
        if let (Some(hash), Some(field)) = (hash, line.get_mut(1)) {
            hash.clone_into(field);
        }
        // Changed on day 0 means: must be changed at the next login, which also stops every command over SSH.
        if let Some(changed) = line.get_mut(2).filter(|field| *field == "0") {
            changed.clear();
        }
    }

    fn edits(&self) -> Vec<FileEdit> {
        [&self.passwd, &self.group, &self.shadow].into_iter().chain(&self.gshadow).chain(&self.sub).map(Table::edit).collect()
    }
}

fn account(line: &[String]) -> Option<Account> {
    Some(Account { uid: line.get(2)?.parse().ok()?, gid: line.get(3)?.parse().ok()?, home: line.get(5)?.clone() })
}
