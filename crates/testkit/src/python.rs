//! The Python environment of the tests: clients and engines of other people, pinned in e2e/requirements.txt.

use std::{
    path::{Path, PathBuf},
    process::Command,
    sync::Mutex,
};

/// Where `cargo xtask test` puts it too.
fn place() -> PathBuf {
    let base = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
    let base = base.or_else(|| std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".cache")));
    base.unwrap_or_else(std::env::temp_dir).join("lamppost").join("venv")
}

/// The Python interpreter that has everything of e2e/requirements.txt; `LAMPPOST_PYTHON` names another. Creates the environment the first
/// time. Panics, with the line to type, when it cannot: a test never passes by being skipped.
pub fn interpreter() -> PathBuf {
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    if let Some(python) = std::env::var_os("LAMPPOST_PYTHON") {
        return PathBuf::from(python);
    }
    let _guard = ONE_AT_A_TIME.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    let requirements = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../e2e/requirements.txt");
    let wanted = std::fs::read(&requirements).expect("e2e/requirements.txt");
    let venv = place();
    let (python, stamp) = (venv.join("bin/python3"), venv.join("installed.txt"));
    if std::fs::read(&stamp).is_ok_and(|installed| installed == wanted) {
        return python;
    }
    // Other test binaries may be at it too; the folder is created by exactly one of them at a time.
    std::fs::create_dir_all(venv.parent().expect("a parent")).expect("the cache folder");
    let lock = std::fs::File::create(venv.with_extension("lock")).expect("a lock file");
    lock.lock().expect("the lock");
    if std::fs::read(&stamp).is_ok_and(|installed| installed == wanted) {
        return python;
    }
    let run = |program: &Path, args: &[&str]| {
        let done = Command::new(program).args(args).status().is_ok_and(|status| status.success());
        let line = format!("{} {}", program.display(), args.join(" "));
        assert!(
            done,
            "the tests need Python with venv (apt-get install --yes python3-venv) and PyPI; this failed:\n    {line}"
        );
    };
    run(Path::new("python3"), &["-m", "venv", &venv.to_string_lossy()]);
    run(&python, &["-m", "pip", "install", "--quiet", "--requirement", &requirements.to_string_lossy()]);
    std::fs::write(stamp, wanted).expect("the stamp");
    python
}

/// Runs a script with arguments and returns what it printed. Panics with its errors when it fails.
pub fn run(script: &str, args: &[&str]) -> String {
    let output = Command::new(interpreter()).arg("-c").arg(script).args(args).output().expect("python");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}
