//! Test files, made once for the whole test run.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::LazyLock;

/// Three sentences with pauses of more than a second on the left, others on the right, 48 kHz.
const LEFT: &str = "<speak>The quick brown fox jumps over the lazy dog. <break time='1300ms'/> She sells sea shells by \
                    the sea shore, and the shells she sells are surely sea shells. <break time='1500ms'/> It was a \
                    bright cold day in April, and the clocks were striking thirteen.</speak>";
const RIGHT: &str = "<speak>Peter Piper picked a peck of pickled peppers. <break \
                     time='2800ms'/> How many peppers did Peter Piper pick?</speak>";

/// The folder of this test run and the clip in it.
pub struct Studio {
    dir: tempfile::TempDir,
    /// 48 kHz, two channels that differ, 16 bits.
    pub clip: PathBuf,
}

static STUDIO: LazyLock<Option<Studio>> = LazyLock::new(|| {
    let have =
        |program: &str, arg: &str| Command::new(program).arg(arg).output().is_ok_and(|o| o.status.success());
    if !have("ffmpeg", "-version") || !have("espeak-ng", "--version") {
        return None;
    }
    let dir = tempfile::tempdir().expect("a temporary folder can be made");
    for (name, text) in [("left.wav", LEFT), ("right.wav", RIGHT)] {
        let done = Command::new("espeak-ng")
            .args(["-m", "-v", "en", "-w"])
            .arg(dir.path().join(name))
            .arg(text)
            .status();
        assert!(done.is_ok_and(|s| s.success()), "espeak-ng failed");
    }
    let clip = dir.path().join("clip.wav");
    let inputs = [dir.path().join("left.wav"), dir.path().join("right.wav")];
    let join = "[0:a]apad[l];[1:a]adelay=2500,apad[r];[l][r]join=inputs=2:channel_layout=stereo,atrim=end=14,aresample=48000";
    ffmpeg(
        Command::new("ffmpeg")
            .arg("-i")
            .arg(&inputs[0])
            .arg("-i")
            .arg(&inputs[1])
            .args(["-filter_complex", join])
            .arg(&clip),
    );
    Some(Studio { dir, clip })
});

/// The studio, or a plain word that the test is skipped.
pub fn studio(test: &str) -> Option<&'static Studio> {
    if STUDIO.is_none() {
        eprintln!("skipped: {test} needs ffmpeg and espeak-ng");
    }
    STUDIO.as_ref()
}

impl Studio {
    /// A path in the folder of this run.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// The clip in another format; none if this ffmpeg lacks the encoder.
    pub fn convert(&self, args: &[&str], name: &str) -> Option<PathBuf> {
        let path = self.path(name);
        let output = Command::new("ffmpeg")
            .args(["-nostdin", "-v", "error", "-y", "-i"])
            .arg(&self.clip)
            .args(args)
            .arg(&path)
            .output()
            .expect("ffmpeg was there a moment ago");
        if output.status.success() {
            return Some(path);
        }
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(said.contains("Unknown encoder"), "make {name}: {said}");
        eprintln!("skipped: this ffmpeg has no encoder for {name}");
        None
    }

    /// The same in memory.
    pub fn bytes(&self, args: &[&str], name: &str) -> Option<Vec<u8>> {
        self.convert(args, name).map(|path| std::fs::read(path).expect("the file was just written"))
    }
}

/// What ffmpeg makes of a file: 16 kHz, with `filter` to choose or mix channels.
///
/// Opus goes through libopus, the codec's own reference: ffmpeg's decoder resamples speech frames in its own way.
pub fn reference(path: &Path, filter: &str) -> Vec<i16> {
    let opus = path.file_stem().is_some_and(|name| name == "opus" || name == "voice");
    let output = Command::new("ffmpeg")
        .args(["-nostdin", "-v", "error"])
        .args(if opus { &["-c:a", "libopus"][..] } else { &[] })
        .arg("-i")
        .arg(path)
        .args(["-map", "0:a:0", "-af", filter, "-ar", "16000", "-f", "s16le", "-c:a", "pcm_s16le", "-"])
        .output()
        .expect("ffmpeg was there a moment ago");
    assert!(output.status.success(), "{path:?}: {}", String::from_utf8_lossy(&output.stderr));
    output.stdout.chunks_exact(2).map(|b| i16::from_le_bytes([b[0], b[1]])).collect()
}

/// Runs ffmpeg, which must not fail.
pub fn ffmpeg(command: &mut Command) {
    let output =
        command.args(["-y", "-nostdin", "-v", "error"]).output().expect("ffmpeg was there a moment ago");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}
