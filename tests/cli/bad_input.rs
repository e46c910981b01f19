//! What must be refused: each text is a snapshot, the exit code is 2, nothing is computed and nothing half-written is left.
//! Must not look inside the library.

use std::fs;
use std::process::Stdio;
use std::time::{Duration, Instant};

use libtest_mimic::Trial;
use petard::gpu::cuda::look;

use super::fixture::{ATTACK, Fixture};
use crate::support::{Snapshot, ignored, trial};

/// Name of the snapshot and the command. Where a command is cut short by `..`, the rest is `ATTACK`.
const REFUSED: &[(&str, &str)] = &[
    // Arguments.
    ("no_model", "attack --data cifar10:data"),
    ("unknown_model", "attack --model resnet21-cifar10"),
    ("unknown_command", "atack"),
    ("unknown_option", "attack --stepz 3"),
    ("unknown_attack", ".. --attack gpd"),
    ("eps_zero", ".. --eps 0"),
    ("eps_negative", ".. --eps -8/255"),
    ("eps_nan", ".. --eps nan"),
    ("eps_divides_by_zero", ".. --eps 8/0"),
    ("eps_no_number", ".. --eps eight"),
    ("eps_in_8_bit_steps", ".. --epsilon 8"),
    ("alpha_in_8_bit_steps", ".. --alpha 2"),
    ("steps_zero", "attack --model tiny.toml --steps 0"),
    ("steps_with_fgsm", ".. --attack fgsm"),
    ("alpha_with_r_fgsm", "attack --model tiny.toml --attack r-fgsm --alpha 1/255"),
    ("restarts_with_bim", ".. --attack bim --restarts 5"),
    ("random_start_with_bim", ".. --attack bim --random-start true"),
    ("restarts_without_chance", ".. --restarts 5 --random-start false"),
    ("l2_with_fgsm_rs", "attack --model tiny.toml --attack fgsm-rs --norm l2"),
    ("start_with_fgsm", "attack --model tiny.toml --attack fgsm --start three.safetensors"),
    ("unknown_target", ".. --target best"),
    ("target_class_too_high", ".. --target 10"),
    ("expectation_in_percent", ".. --expect-robust 45"),
    ("precision", ".. --device cpu --precision bf16"),
    ("infer_in_16_bits", "infer --model tiny.toml --precision bf16"),
    ("exact_in_16_bits", ".. --exact --precision fp16"),
    ("card_and_device", "plan --model tiny.toml --card h200 --device cpu"),
    ("cuda", ".. --device cuda:0"),
    ("unknown_device", ".. --device gpu"),
    ("unknown_precision", ".. --precision fp8"),
    ("limit_zero", "attack --model tiny.toml --limit 0"),
    ("offset_beyond_the_end", ".. --offset 2000"),
    // Models.
    ("card_missing", "attack --model missing.toml"),
    ("card_with_a_typo", "attack --model typo.toml"),
    ("card_for_other_classes", "attack --model five.toml"),
    ("no_weights", "attack --model resnet20-cifar10"),
    ("weights_of_another_network", "attack --model resnet20-cifar10 --weights tiny.safetensors"),
    ("weights_missing", ".. --weights missing.safetensors"),
    ("weights_truncated", ".. --weights cut.safetensors"),
    ("weights_no_safetensors", ".. --weights noise.safetensors"),
    ("weights_with_nan", ".. --weights nan.safetensors"),
    ("weights_are_a_folder", ".. --weights empty"),
    // Images.
    ("unknown_data", ".. --data mnist:dir"),
    ("data_without_path", ".. --data cifar10"),
    ("cifar_missing", ".. --data cifar10:empty"),
    ("folder_empty", ".. --data images:empty"),
    ("folder_missing", ".. --data images:nowhere"),
    ("images_of_another_size", ".. --data file:small.safetensors"),
    ("images_out_of_range", ".. --data file:range.safetensors"),
    ("arrays_that_are_weights", ".. --data file:tiny.safetensors"),
    ("source_of_another_size", ".. --source small.toml"),
    ("source_missing", ".. --source nowhere.toml"),
    ("source_without_weights", ".. --source resnet20-cifar10"),
    ("eot_without_chance", "attack --model tiny.toml --attack mi-fgsm --eot 2"),
    ("l2_with_mi_fgsm", "attack --model tiny.toml --attack mi-fgsm --norm l2"),
    ("kernel_unknown", "attack --model tiny.toml --attack ti-fgsm --kernel round"),
    ("starts_of_another_number", ".. --start three.safetensors"),
    // Results.
    ("save_over_a_file", ".. --save there.safetensors"),
    ("save_nowhere", ".. --save nowhere/adv.safetensors"),
    ("save_and_json_in_one", ".. --save adv.npz --json adv.npz"),
    ("json_into_a_folder", ".. --json empty"),
    ("json_nowhere", ".. --json nowhere/a.json"),
    ("infer_save_over_a_file", "infer --model tiny.toml --save there.safetensors"),
];

pub fn trials() -> Vec<Trial> {
    let refused = REFUSED.iter().map(|(name, line)| {
        let full = format!("cli::refused.{name}");
        if *name == "cuda" && !matches!(look(), Ok(None)) {
            return ignored(full, "there is an NVIDIA driver");
        }
        trial(full, move || refused(name, line))
    });
    let own = vec![
        trial("cli::refused.save_twice_into_a_folder", || {
            let f = Fixture::new();
            f.ok(&format!("{ATTACK} --save adv --save-png png"));
            check(&f, "save_twice_into_a_folder", &format!("{ATTACK} --save adv"))?;
            check(&f, "pictures_twice_into_a_folder", &format!("{ATTACK} --save-png png"))
        }),
        unreadable(),
        full_disk(),
        file_limit(),
        interrupt(),
    ];
    refused.chain(own).collect()
}

fn refused(name: &str, line: &str) -> Result<(), String> {
    let mut f = Fixture::new();
    f.add_bad_files();
    check(&f, name, &line.replace("..", ATTACK))?;
    f.left(&[]);
    assert_eq!(fs::read(f.path("there.safetensors")).expect("still there"), b"from an older run");
    Ok(())
}

fn check(f: &Fixture, name: &str, line: &str) -> Result<(), String> {
    let ran = f.run(line);
    assert_eq!((ran.code, ran.stdout.as_str()), (2, ""), "petard {line}\n{}", ran.stderr);
    Snapshot::new(&format!("cli/refused/{name}")).check(&format!("$ petard {line}\n{}", ran.stderr))
}

/// A file without the right to read it. Root reads it all the same.
fn unreadable() -> Trial {
    let name = "cli::refused.weights_unreadable";
    let f = Fixture::new();
    let path = f.path("tiny.safetensors");
    let mut rights = fs::metadata(&path).expect("the weights").permissions();
    rights.set_readonly(true);
    #[cfg(unix)]
    std::os::unix::fs::PermissionsExt::set_mode(&mut rights, 0);
    fs::set_permissions(&path, rights).expect("the file is ours");
    if fs::read(&path).is_ok() {
        return ignored(name, "this user may read everything");
    }
    trial(name, move || check(&f, "weights_unreadable", ATTACK))
}

/// Reports onto a device that is always full.
fn full_disk() -> Trial {
    let name = "cli::refused.disk_full";
    if !std::path::Path::new("/dev/full").exists() {
        return ignored(name, "no /dev/full");
    }
    trial(name, || {
        let f = Fixture::new();
        let full = fs::File::options().write(true).open("/dev/full").expect("a device");
        let out = f.command("models").stdout(full).stderr(Stdio::piped()).output().expect("the program starts");
        assert_eq!(out.status.code(), Some(2));
        Snapshot::new("cli/refused/stdout_full").check(&String::from_utf8_lossy(&out.stderr))?;
        let ran = f.run(&format!("{ATTACK} --json /dev/full"));
        assert_eq!(ran.code, 2);
        assert!(fs::File::options().write(true).open("/dev/full").is_ok(), "the device must not be replaced");
        Snapshot::new("cli/refused/json_full").check(&ran.stderr)
    })
}

/// Images that do not fit: a limit on the size of files stands in for a full disk, and leaves nothing behind either.
fn file_limit() -> Trial {
    let name = "cli::refused.no_room_for_images";
    if !cfg!(target_os = "linux") {
        return ignored(name, "only tried on Linux");
    }
    trial(name, || {
        for (path, line) in [("adv.safetensors", "a file"), ("adv", "a folder")] {
            let f = Fixture::new();
            let program = f.command("");
            let script = format!("trap '' XFSZ; ulimit -f 64; exec \"$0\" {ATTACK} --save {path}");
            let mut shell = std::process::Command::new("sh");
            shell.args(["-c", &script]).arg(program.get_program()).current_dir(f.path("."));
            let out = shell.output().expect("a shell");
            let said = String::from_utf8_lossy(&out.stderr).into_owned();
            assert_eq!((out.status.code(), out.stdout.len()), (Some(2), 0), "{line}: {said}");
            assert!(said.starts_with(&format!("error: cannot write `{path}")) && said.ends_with(": file too large\n"), "{said}");
            // Nor is the folder left that was made for them.
            f.left(&[]);
        }
    })
}

/// Ctrl-C in the middle of an attack that would take hours.
fn interrupt() -> Trial {
    let name = "cli::interrupted.by_ctrl_c";
    if !cfg!(target_os = "linux") {
        return ignored(name, "only tried on Linux");
    }
    trial(name, || {
        for signal in ["INT", "TERM"] {
            let f = Fixture::new();
            let line = "attack --model tiny.toml --steps 1000000 --save adv.npz --json a.json";
            let mut child = f.command(line).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the program starts");
            let deadline = Instant::now() + Duration::from_secs(60);
            while !listens(child.id()) {
                assert!(Instant::now() < deadline, "the program never listens for signals");
                std::thread::sleep(Duration::from_millis(5));
            }
            let id = child.id().to_string();
            let sent = std::process::Command::new("sh").args(["-c", &format!("kill -{signal} {id}")]).status();
            assert!(sent.expect("a shell").success());
            while child.try_wait().expect("a state").is_none() {
                if Instant::now() > deadline {
                    child.kill().expect("it is ours");
                    panic!("SIG{signal} did not stop the attack within a minute");
                }
                std::thread::sleep(Duration::from_millis(5));
            }
            let out = child.wait_with_output().expect("its output");
            assert_eq!((out.status.code(), out.stdout.len()), (Some(2), 0), "SIG{signal}");
            let said = String::from_utf8_lossy(&out.stderr).into_owned();
            assert!(said.starts_with("error: stopped after ") && said.ends_with(" of 2000 images\n"), "{said}");
            f.left(&[]);
        }
    })
}

/// Whether the process catches SIGINT: bit 1 of the mask that the system shows.
fn listens(id: u32) -> bool {
    let status = fs::read_to_string(format!("/proc/{id}/status")).unwrap_or_default();
    let mask = status.lines().find_map(|l| l.strip_prefix("SigCgt:")).unwrap_or("0").trim();
    u64::from_str_radix(mask, 16).is_ok_and(|mask| mask & 0b10 != 0)
}
