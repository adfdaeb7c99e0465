//! `inspectd account reset`: the way back in when a password is lost.
//!
//! ```text
//! new password, not shown --argon2--> its hash --local door--> store: hash exchanged, sessions ended
//! ```
//!
//! Who may write the store may do this: its user and root. It stands in the log, of the daemon where one runs.

use super::store_args::StoreArgs;
use crate::control::Request;
use crate::control::client::{ControlError, Taken};
use crate::web::auth::{check_name, check_password, hash, setup_code};
use anyhow::Context as _;
use std::io::{self, BufRead as _, IsTerminal as _, Write as _};
use std::os::fd::AsRawFd as _;
use std::process::ExitCode;

/// Arguments of `account`.
#[derive(clap::Args, Debug)]
pub(super) struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(clap::Subcommand, Debug)]
enum What {
    /// Give an account another password; its sessions end, its role stays.
    ///
    /// The password is asked for at the terminal and not shown, or read from standard input, a line.
    Reset {
        /// The account.
        name: String,
        /// From now on it is an engineer; where there is no such account, one is made.
        #[arg(long)]
        engineer: bool,
        /// Make a password and print it, instead of asking for one; to be changed on the page.
        #[arg(long)]
        generate: bool,
        #[command(flatten)]
        store: StoreArgs,
    },
}

/// Runs the command, through the daemon where one runs.
///
/// # Errors
/// A bad config; no store; another user's; no such account; a password that is none.
pub(super) fn run(args: Args) -> anyhow::Result<ExitCode> {
    let What::Reset { name, engineer, generate, store } = args.what;
    check_name(&name).map_err(|why| anyhow::anyhow!("NAME is {name}: {why}"))?;
    let (_, mut client) = store.reach()?;
    let password = if generate { setup_code() } else { asked(&name)? };
    check_password(&password).map_err(anyhow::Error::msg)?;
    let password_hash = hash(&password).map_err(|_| anyhow::anyhow!("the password cannot be hashed"))?;
    let by = ["SUDO_USER", "USER"].iter().find_map(|name| std::env::var(name).ok()).unwrap_or_default();
    let by = format!("command line ({by})");
    let request = Request::ResetPassword { name: name.clone(), password_hash, engineer, by };
    let summary = client.ask::<ControlError>(request, |_| Ok(Taken::Silently))?;
    let role = summary["role"].as_str().unwrap_or_default();
    println!("{name} ({role}) has a new password; its sessions have ended");
    if generate {
        println!("{password}");
    }
    Ok(ExitCode::SUCCESS)
}

/// The password: twice from a terminal, which does not show it, or the first line of standard input.
fn asked(name: &str) -> anyhow::Result<String> {
    if !io::stdin().is_terminal() {
        return line().context("standard input");
    }
    let first = unseen(&format!("new password of {name}: "))?;
    check_password(&first).map_err(anyhow::Error::msg)?;
    anyhow::ensure!(first == unseen("once more: ")?, "the two differ: nothing was changed");
    Ok(first)
}

fn line() -> io::Result<String> {
    let mut line = String::new();
    io::stdin().lock().read_line(&mut line)?;
    Ok(line.trim_end_matches(['\r', '\n']).to_owned())
}

/// A line that the terminal does not show.
fn unseen(prompt: &str) -> io::Result<String> {
    let mut err = io::stderr().lock();
    err.write_all(prompt.as_bytes())?;
    err.flush()?;
    let _quiet = Quiet::new()?;
    let line = line();
    writeln!(err)?;
    line
}

/// A terminal that does not show what is typed, until this is dropped.
struct Quiet {
    terminal: i32,
    before: libc::termios,
}

impl Quiet {
    fn new() -> io::Result<Self> {
        let terminal = io::stdin().as_raw_fd();
        // SAFETY: zeroes are a value of this plain struct.
        let mut before: libc::termios = unsafe { std::mem::zeroed() };
        // SAFETY: a termios of our own, and a descriptor that is open.
        if unsafe { libc::tcgetattr(terminal, &raw mut before) } != 0 {
            return Err(io::Error::last_os_error());
        }
        let mut quiet = before;
        quiet.c_lflag &= !libc::ECHO;
        // SAFETY: as above.
        if unsafe { libc::tcsetattr(terminal, libc::TCSAFLUSH, &raw const quiet) } != 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(Self { terminal, before })
    }
}

impl Drop for Quiet {
    fn drop(&mut self) {
        // SAFETY: what the terminal had before, on the same descriptor.
        unsafe { libc::tcsetattr(self.terminal, libc::TCSAFLUSH, &raw const self.before) };
    }
}
