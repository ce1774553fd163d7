//! The commands, and what they share.

use clap::{Parser, Subcommand};

use crate::{
    commands::{
        audit, backup, census, certificate, completions, config, decrypt, demo, dev, encrypt, holder, init,
        inspect, man, manifest, members, recover, rekey, restore_backup, retire, rotate, seal, server, status,
        token, unlock, versions, window,
    },
    exit::Exit,
    output::{Format, Output},
    profile::ConnectArgs,
};

/// A key-management daemon for teams whose encryption key no single person may hold.
///
/// Two dozen keyholders each keep a share; any two of them unlock the daemon. Services ask it to encrypt and
/// decrypt. Rotating a key needs no downtime, and an old key goes only when a count proves that nothing needs it.
#[derive(Debug, Parser)]
#[command(name = "keymoot", version, max_term_width = 100, after_help = EXAMPLES)]
pub(crate) struct Cli {
    #[command(flatten)]
    connect: ConnectArgs,
    /// How results are printed: text for people, or one JSON document
    #[arg(long, value_enum, default_value = "text", global = true)]
    output: Format,
    #[command(subcommand)]
    command: Command,
}

const EXAMPLES: &str = "\
A keyholder's year (each has a page in docs/ceremonies):
  keymoot holder keygen                        once: make your identity
  keymoot holder open ann.age                  your package has come: open it
  keymoot unlock ann.parts                     a node was restarted: give your share
  keymoot holder consent ID ann.parts          you are asked for something: look, then say y or N
  keymoot holder prove ann.parts               once a year: show that you still have your share

A first keyring, on one machine:
  keymoot server --config keymoot.toml         the daemon
  keymoot init --threshold 2 --holder ann --holder bob --holder eve --out packages
  keymoot unlock packages/ann.parts packages/bob.parts
  printf secret | keymoot encrypt auth-token | keymoot decrypt auth-token

A rotation, from v9 to v10:
  keymoot rotate stage                         then two holders: keymoot holder consent ID FILE
  keymoot rotate packages v10 --out v10        then every holder: keymoot holder open FILE
  keymoot unlock ann.parts bob.parts           loads v10 beside v9
  keymoot rotate activate v10 && keymoot rekey start --watch && keymoot retire v9 --wait

Exit codes: 0 done, 1 failed, 2 wrong usage or configuration, 3 undetermined (try again),
4 refused by a gate, 6 done in part (rows in quarantine).";

#[derive(Debug, Subcommand)]
enum Command {
    Demo(demo::Args),
    Dev(dev::Args),
    Server(server::Args),
    #[command(flatten)]
    Operate(Operate),
}

/// Everything but the daemon, which builds its own runtimes.
#[derive(Debug, Subcommand)]
enum Operate {
    #[command(subcommand)]
    Config(config::Command),
    Init(init::Args),
    #[command(subcommand)]
    Holder(holder::Command),
    Unlock(unlock::Args),
    Status(status::Args),
    Versions(versions::Args),
    Seal(seal::Args),
    #[command(subcommand)]
    Rotate(rotate::Command),
    #[command(subcommand)]
    Window(window::Command),
    #[command(subcommand)]
    Manifest(manifest::Command),
    #[command(subcommand)]
    Members(members::Command),
    #[command(subcommand)]
    Rekey(rekey::Command),
    Census(census::Args),
    Retire(retire::Args),
    #[command(subcommand)]
    Certificate(certificate::Command),
    #[command(subcommand)]
    Audit(audit::Command),
    Encrypt(encrypt::Args),
    Decrypt(decrypt::Args),
    Inspect(inspect::Args),
    Recover(recover::Args),
    Backup(backup::Args),
    RestoreBackup(restore_backup::Args),
    #[command(subcommand)]
    Token(token::Command),
    Completions(completions::Args),
    Man(man::Args),
}

/// What every command gets.
#[derive(Debug)]
pub(crate) struct Context {
    /// Where to connect.
    pub(crate) connect: ConnectArgs,
    /// Where results go.
    pub(crate) out: Output,
}

impl Cli {
    /// Runs the command.
    pub(crate) fn run(self) -> anyhow::Result<Exit> {
        let context = Context { connect: self.connect, out: Output::new(self.output) };
        match self.command {
            Command::Server(args) => server::run(&args),
            Command::Demo(args) => demo::run(&context, &args),
            Command::Dev(args) => dev::run(&context, &args),
            Command::Operate(command) => {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
                let exit = runtime.block_on(command.run(&context));
                // A host name that is still being looked up must not outlast the time of its node.
                runtime.shutdown_background();
                exit
            }
        }
    }
}

impl Operate {
    async fn run(self, context: &Context) -> anyhow::Result<Exit> {
        match self {
            Self::Config(command) => config::run(context, &command).await,
            Self::Init(args) => init::run(context, args).await,
            Self::Holder(command) => holder::run(context, command).await,
            Self::Unlock(args) => unlock::run(context, args).await,
            Self::Status(args) => status::run(context, &args).await,
            Self::Versions(_) => versions::run(context).await,
            Self::Seal(args) => seal::run(context, &args).await,
            Self::Rotate(command) => rotate::run(context, command).await,
            Self::Window(command) => window::run(context, command).await,
            Self::Manifest(command) => manifest::run(context, command).await,
            Self::Members(command) => members::run(context, command).await,
            Self::Rekey(command) => rekey::run(context, command).await,
            Self::Census(args) => census::run(context, args).await,
            Self::Retire(args) => retire::run(context, args).await,
            Self::Certificate(command) => certificate::run(context, &command).await,
            Self::Audit(command) => audit::run(context, command).await,
            Self::Encrypt(args) => encrypt::run(context, args).await,
            Self::Decrypt(args) => decrypt::run(context, args).await,
            Self::Inspect(args) => inspect::run(context, &args),
            Self::Recover(args) => recover::run(context, &args),
            Self::Backup(args) => backup::run(context, &args).await,
            Self::RestoreBackup(args) => restore_backup::run(context, &args).await,
            Self::Token(command) => token::run(context, command),
            Self::Completions(args) => completions::run(context, &args),
            Self::Man(args) => man::run(context, &args),
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    fn help_of(path: &[&str]) -> String {
        let mut command = Cli::command();
        command.build();
        let mut found = &mut command;
        for name in path {
            found = found.find_subcommand_mut(name).unwrap();
        }
        found.render_long_help().to_string()
    }

    #[test]
    fn the_definition_contradicts_itself_nowhere() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_command_says_what_it_does_and_shows_an_example() {
        fn walk(command: &clap::Command, path: &str) {
            let name = format!("{path} {}", command.get_name());
            assert!(command.get_about().is_some(), "{name} says nothing");
            if command.get_subcommands().next().is_none() && command.get_name() != "help" {
                let example = command.get_after_help().map(ToString::to_string).unwrap_or_default();
                assert!(example.contains("keymoot "), "{name} shows no example");
            }
            for subcommand in command.get_subcommands().filter(|command| command.get_name() != "help") {
                walk(subcommand, &name);
            }
        }
        walk(&Cli::command(), "");
    }

    #[test]
    fn no_help_shows_what_stands_in_the_environment() {
        assert!(help_of(&["unlock"]).contains("[env: KEYMOOT_CONTROL_ADDR"));
        assert!(help_of(&["decrypt"]).contains("KEYMOOT_TOKEN"));
    }

    #[test]
    fn shares_and_tokens_are_never_arguments() {
        for bad in [&["keymoot", "status", "--token", "km_x"][..], &["keymoot", "unlock", "--share", "kmshare1"]] {
            assert!(Cli::try_parse_from(bad).is_err());
        }
    }

    #[test]
    fn versions_are_taken_with_and_without_their_v() {
        for good in ["v9", "9"] {
            assert!(Cli::try_parse_from(["keymoot", "retire", good]).is_ok());
        }
        assert!(Cli::try_parse_from(["keymoot", "retire", "v09"]).is_err());
    }
}
