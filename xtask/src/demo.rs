//! `cargo xtask demo`: from an empty checkout to Hong Kong on the screen.

use anyhow::Result;

use crate::{sh, web};

pub fn run(args: &[String]) -> Result<()> {
    let program = sh::target().join("debug/lamppost");
    let first = !program.exists();
    eprintln!("1/3  The map and chart islands (npm).");
    web::build_if_possible()?;
    eprintln!("2/3  The program (cargo, optimised).");
    if first {
        eprintln!(
            "     The first build compiles the SQL engine and takes ten to fifteen minutes on two cores; later ones take seconds."
        );
    }
    sh::fast_cargo(&["build", "--package", "lamppost"])?;
    eprintln!("3/3  Hong Kong. Stop it with Ctrl-C; its data stays in ./data and the next start is instant.");
    let mut command = vec!["demo"];
    command.extend(args.iter().map(String::as_str));
    sh::run(&program.to_string_lossy(), &command)
}
