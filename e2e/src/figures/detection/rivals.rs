//! Speech detectors side by side.

use decode::segment::FRAME_SAMPLES;
use decode::speech::level::Leveler;
use decode::speech::silero::{Silero, WINDOW_SAMPLES};
use decode::speech::{BATCH_SAMPLES, Detector, Frame};

/// A detector.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rival {
    /// The one that decoding uses: Silero's network behind automatic gain.
    Silero,
    /// Silero's network on the sound as it is.
    SileroWithoutGain,
    /// The crate earshot, behind the same gain.
    Earshot,
}

impl Rival {
    /// All of them.
    pub const ALL: &[Rival] = &[Rival::Silero, Rival::SileroWithoutGain, Rival::Earshot];

    /// Its name on the page.
    pub fn name(self) -> &'static str {
        match self {
            Rival::Silero => "Silero",
            Rival::SileroWithoutGain => "Silero without gain",
            Rival::Earshot => "earshot",
        }
    }

    /// Whether it is compared in every way.
    pub fn is_candidate(self) -> bool {
        self != Rival::SileroWithoutGain
    }

    /// What it hears in each frame of 16 ms; what fills no window at the end is left out.
    pub fn listen(self, sound: &[i16]) -> Vec<Frame> {
        let mut frames = Vec::new();
        match self {
            Rival::Silero => {
                let mut detector = Detector::default();
                for batch in sound.chunks(BATCH_SAMPLES) {
                    detector.listen(batch, &mut frames);
                }
            }
            Rival::SileroWithoutGain => {
                let (windows, _) = sound.as_chunks::<WINDOW_SAMPLES>();
                let scaled: Vec<_> =
                    windows.iter().map(|window| window.map(|sample| f32::from(sample) / 32768.0)).collect();
                let mut probabilities = Vec::new();
                Silero::default().listen(&scaled, &mut probabilities);
                let levels = levels(windows.as_flattened());
                frames.extend(levels.iter().enumerate().map(|(at, (level_db, _))| {
                    let speech = probabilities[at * FRAME_SAMPLES / WINDOW_SAMPLES];
                    Frame { speech, level_db: *level_db }
                }));
            }
            Rival::Earshot => {
                let mut net = earshot::Detector::default_boxed();
                frames.extend(levels(sound).iter().map(|(level_db, raised)| {
                    let raised = raised.map(|sample| (sample * 32768.0) as i16);
                    Frame { speech: net.predict_i16(&raised), level_db: *level_db }
                }));
            }
        }
        frames
    }
}

/// How loud each frame is, and the frame behind automatic gain.
fn levels(sound: &[i16]) -> Vec<(f32, [f32; FRAME_SAMPLES])> {
    let mut leveler = Leveler::default();
    let frames = sound.as_chunks().0.iter();
    let raise = |frame| {
        let mut raised = [0.0; FRAME_SAMPLES];
        (leveler.raise(frame, &mut raised), raised)
    };
    frames.map(raise).collect()
}
