use super::*;

/// Sizes of tiny.
fn tiny() -> Dims {
    Dims {
        mels: 80,
        width: 384,
        encoder_heads: 6,
        decoder_heads: 6,
        encoder_layers: 4,
        decoder_layers: 4,
        inner: 1_536,
        vocabulary: 51_865,
        text_positions: 448,
    }
}

#[track_caller]
fn refused(dims: Dims, reason: &str) {
    let told = dims.check().unwrap_err();
    assert!(told.contains(reason), "{told}");
}

#[test]
fn the_sizes_of_whisper_are_taken() {
    assert_eq!(tiny().check(), Ok(()));
    let large = Dims { mels: 128, width: 1_280, encoder_heads: 20, decoder_heads: 20, ..tiny() };
    assert_eq!(Dims { vocabulary: 51_866, decoder_layers: 32, ..large }.check(), Ok(()));
}

#[test]
fn sizes_that_cannot_be_run_are_told_with_what_could_be() {
    refused(Dims { encoder_heads: 0, ..tiny() }, "0 encoder heads do not divide a width of 384");
    refused(Dims { decoder_heads: 5, ..tiny() }, "5 decoder heads do not divide a width of 384");
    refused(Dims { encoder_heads: 2, ..tiny() }, "heads are 192 wide; Whisper's are 64");
    refused(Dims { decoder_heads: 32, ..tiny() }, "heads are 12 wide; Whisper's are 64");
    refused(Dims { width: 0, ..tiny() }, "heads are 0 wide");
    refused(Dims { encoder_layers: 0, ..tiny() }, "it has no layers");
    refused(Dims { decoder_layers: 0, ..tiny() }, "it has no layers");
    refused(Dims { mels: 64, ..tiny() }, "64 mel bands; Whisper models hear 80 or 128");
    refused(Dims { vocabulary: 50_257, ..tiny() }, "vocabulary of 50257 tokens is not Whisper's");
    refused(Dims { text_positions: 449, ..tiny() }, "449 positions; Whisper's has 448");
    refused(Dims { text_positions: 64, ..tiny() }, "64 positions");
}
