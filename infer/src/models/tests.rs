use super::*;

#[test]
fn an_unknown_name_lists_what_is_there() {
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir(folder.path().join("base")).unwrap();
    fs::create_dir(folder.path().join("tiny.en")).unwrap();
    assert_eq!(resolve(folder.path(), "base").unwrap(), folder.path().join("base"));
    for name in ["huge", "../base", "", "base/"] {
        let message = resolve(folder.path(), name).unwrap_err().to_string();
        assert!(
            message.contains("there is: base, tiny.en") && message.contains(&format!("{name:?}")),
            "{message}"
        );
    }
}

#[test]
fn a_folder_that_is_not_there_is_named() {
    let message = scan(Path::new("/nowhere/models")).unwrap_err().to_string();
    assert!(message.starts_with("list models folder /nowhere/models: "), "{message}");
}

#[test]
fn a_scan_passes_over_empty_folders_and_reports_broken_ones() {
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir(folder.path().join("empty")).unwrap();
    fs::create_dir(folder.path().join("half")).unwrap();
    fs::write(folder.path().join("half/model.bin"), [6, 0, 0]).unwrap();
    let found = scan(folder.path()).unwrap();
    assert_eq!(found.models, []);
    let [(name, error)] = found.broken.as_slice() else { panic!("one folder is broken: {:?}", found.broken) };
    assert_eq!(name, "half");
    assert!(error.to_string().contains("half/model.bin is damaged"), "{error}");
}

#[test]
fn a_hash_is_kept_until_the_file_changes() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("model.bin");
    fs::write(&file, "abc").unwrap();
    let abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
    assert_eq!(sha256(std::slice::from_ref(&file)).unwrap(), abc);
    let side = side_file(&file);
    let kept = fs::read_to_string(&side).unwrap();
    assert!(kept.starts_with(abc));
    // A kept hash is believed as long as size and time fit, and only then.
    fs::write(&side, kept.replace(abc, &"0".repeat(64))).unwrap();
    assert_eq!(sha256(std::slice::from_ref(&file)).unwrap(), "0".repeat(64));
    fs::write(&file, "abcd").unwrap();
    assert_ne!(sha256(std::slice::from_ref(&file)).unwrap(), "0".repeat(64));
    fs::write(&side, "nonsense").unwrap();
    fs::write(&file, "abc").unwrap();
    assert_eq!(sha256(&[file]).unwrap(), abc);
}

#[test]
fn several_files_are_hashed_in_order() {
    let folder = tempfile::tempdir().unwrap();
    let files = [folder.path().join("a"), folder.path().join("b")];
    fs::write(&files[0], "ab").unwrap();
    fs::write(&files[1], "c").unwrap();
    assert!(sha256(&files).unwrap().starts_with("ba7816bf"));
}
