use super::*;

#[track_caller]
fn check(name: &str, expected: &[&str]) {
    assert_eq!(parts(name), expected);
}

#[test]
fn names_are_translated() {
    check("encoder/conv1/weight", &["encoder.conv1.weight"]);
    check("encoder/position_encodings/encodings", &["encoder.embed_positions.weight"]);
    check("decoder/embeddings/weight", &["decoder.embed_tokens.weight"]);
    check("encoder/layer_norm/gamma", &["encoder.layer_norm.weight"]);
    check("decoder/layer_3/ffn/layer_norm/beta", &["decoder.layers.3.final_layer_norm.bias"]);
    check("decoder/layer_11/ffn/linear_1/weight", &["decoder.layers.11.fc2.weight"]);
    check("decoder/layer_0/attention/layer_norm/gamma", &["decoder.layers.0.encoder_attn_layer_norm.weight"]);
    check(
        "encoder/layer_0/self_attention/linear_0/bias",
        &[
            "encoder.layers.0.self_attn.q_proj.bias",
            "encoder.layers.0.self_attn.k_proj.bias",
            "encoder.layers.0.self_attn.v_proj.bias",
        ],
    );
    check(
        "decoder/layer_2/attention/linear_1/weight",
        &["decoder.layers.2.encoder_attn.k_proj.weight", "decoder.layers.2.encoder_attn.v_proj.weight"],
    );
}

#[test]
fn folders_that_are_no_whisper_model_say_so() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).unwrap();
    let complaint = || open(folder.path()).err().unwrap().to_string();
    write(SINGLE, "not safetensors");
    assert!(complaint().contains("config.json"), "{}", complaint());
    write(
        "config.json",
        r#"{"model_type": "llama", "encoder_attention_heads": 6, "decoder_attention_heads": 6}"#,
    );
    assert!(complaint().contains("it describes a \"llama\" model"), "{}", complaint());
    write(
        "config.json",
        r#"{"model_type": "whisper", "encoder_attention_heads": 6, "decoder_attention_heads": 6}"#,
    );
    assert!(complaint().contains("model.safetensors is damaged"), "{}", complaint());
    // A header length beyond the file, as a cut download has it.
    std::fs::write(folder.path().join(SINGLE), [0xff; 64]).unwrap();
    assert!(complaint().contains("download the model again"), "{}", complaint());
    write(INDEX, r#"{"weight_map": {"a": "../../etc/passwd"}}"#);
    assert!(complaint().contains("points outside its folder"), "{}", complaint());
    write(INDEX, r#"{"weight_map": {"a": "model-00001-of-00002.safetensors"}}"#);
    assert!(complaint().contains("read") && complaint().contains("00001-of-00002"), "{}", complaint());
}
