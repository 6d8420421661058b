use super::*;

/// Writes a file as CTranslate2 does: (name, shape, type, elements).
fn file(version: u32, spec: &str, variables: &[(&str, &[u32], u8, &[u8])]) -> Vec<u8> {
    let mut bytes = version.to_le_bytes().to_vec();
    let text = |bytes: &mut Vec<u8>, text: &str| {
        bytes.extend((text.len() as u16 + 1).to_le_bytes());
        bytes.extend(text.as_bytes());
        bytes.push(0);
    };
    text(&mut bytes, spec);
    bytes.extend(3u32.to_le_bytes());
    bytes.extend((variables.len() as u32).to_le_bytes());
    for (name, shape, kind, elements) in variables {
        text(&mut bytes, name);
        bytes.push(shape.len() as u8);
        shape.iter().for_each(|extent| bytes.extend(extent.to_le_bytes()));
        bytes.push(*kind);
        bytes.extend((elements.len() as u32).to_le_bytes());
        bytes.extend(*elements);
    }
    bytes.extend(1u32.to_le_bytes());
    text(&mut bytes, "alias");
    text(&mut bytes, variables[0].0);
    bytes
}

fn sound() -> Vec<u8> {
    file(6, "WhisperSpec", &[("a/weight", &[2, 1], 4, &[0, 0x3c, 0, 0xc0]), ("heads", &[], 2, &[6, 0])])
}

fn complaint(bytes: &[u8]) -> String {
    list(bytes, Path::new("model.bin")).unwrap_err().to_string()
}

#[test]
fn tensors_and_aliases_are_listed() {
    let bytes = sound();
    let tensors = list(&bytes, Path::new("model.bin")).unwrap();
    let weight = &tensors["a/weight"];
    assert_eq!((weight.shape.as_slice(), weight.kind), ([2, 1].as_slice(), Kind::F16));
    assert_eq!(bytes[weight.start..weight.end], [0, 0x3c, 0, 0xc0]);
    assert_eq!(&tensors["alias"], weight);
    assert_eq!(number(&tensors, &bytes, "heads"), Some(6));
    assert_eq!(number(&tensors, &bytes, "alias"), None);
    assert_eq!(number(&tensors, &bytes, "absent"), None);
}

#[test]
fn a_file_cut_anywhere_is_damaged() {
    let bytes = sound();
    for end in 0..bytes.len() {
        let message = complaint(&bytes[..end]);
        assert!(
            message.contains(&format!("it ends after {end} bytes")) && message.contains("download"),
            "{message}"
        );
    }
}

#[test]
fn foreign_files_say_what_they_are() {
    assert!(
        complaint(&file(6, "TransformerSpec", &[("a", &[], 1, &[0])]))
            .contains("of kind \"TransformerSpec\", not Whisper")
    );
    assert!(complaint(&file(9, "WhisperSpec", &[("a", &[], 1, &[0])])).contains("binary version 9"));
    assert!(complaint(b"PK\x03\x04 a zip archive").contains("binary version"));
    assert!(complaint(b"<!DOCTYPE html>").contains("model.bin cannot be used"));
}

#[test]
fn headers_that_lie_cost_nothing() {
    let lies: [(&[u32], u8, &[u8], &str); 4] = [
        (&[u32::MAX, u32::MAX, u32::MAX], 0, &[0; 4], "claims 4 bytes"),
        (&[3], 0, &[0; 4], "claims 4 bytes"),
        (&[4], 77, &[0; 4], "element type 77"),
        (&[1; 9], 1, &[0; 1], "claims 9 dimensions"),
    ];
    for (shape, kind, elements, expected) in lies {
        let message = complaint(&file(6, "WhisperSpec", &[("a", shape, kind, elements)]));
        assert!(message.contains(expected), "{message}");
    }
    let mut many = sound();
    let count = 4 + 2 + "WhisperSpec".len() + 1 + 4;
    many[count..count + 4].copy_from_slice(&u32::MAX.to_le_bytes());
    assert!(complaint(&many).contains("is damaged"));
}

#[test]
fn every_flipped_byte_is_an_answer() {
    let bytes = sound();
    for at in 0..bytes.len() {
        for bit in [0x01, 0x80, 0xff] {
            let mut flipped = bytes.clone();
            flipped[at] ^= bit;
            // Either way it returns; what it lists lies inside the file.
            if let Ok(tensors) = list(&flipped, Path::new("model.bin")) {
                assert!(tensors.values().all(|tensor| tensor.end <= flipped.len()));
            }
        }
    }
}
