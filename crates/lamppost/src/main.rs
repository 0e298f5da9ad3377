use clap::Parser;

fn main() -> std::process::ExitCode {
    lamppost::client::install_crypto();
    match lamppost::cli::run(lamppost::cli::Cli::parse()) {
        Ok(()) => std::process::ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("lamppost: {error:#}");
            std::process::ExitCode::FAILURE
        }
    }
}
