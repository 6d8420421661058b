//! How loud sound is, and faint speech made as loud as a detector wants it.

use crate::segment::FRAME_SAMPLES;

/// The loudness that faint speech is raised to: detectors miss most of what is fainter than -50 dB.
const LEVEL_DB: f32 = -26.0;
/// Nothing is raised by more.
const GAIN_DB_MAX: f32 = 30.0;
/// What stands out less from its background is noise, which raised might pass for speech.
const NOISE_RANGE_DB: f32 = 12.0;
/// The memory of a loud sound fades by 3 dB a second, that of the background by 1.
const LOUD_FADE_DB: f32 = 3.0 * 0.016;
const QUIET_FADE_DB: f32 = 1.0 * 0.016;
/// The loudness is that of the last 130 ms or so.
const SMOOTHING: f32 = 1.0 / 8.0;

/// Automatic gain for faint speech. Its answers depend on all it has heard.
pub struct Leveler {
    rumble: HighPass,
    /// Mean power of late; none before the first frame.
    power: Option<f32>,
    /// The loudness of what was heard of late, and of its background.
    loud_db: f32,
    quiet_db: f32,
}

impl Default for Leveler {
    fn default() -> Leveler {
        Leveler { rumble: HighPass::default(), power: None, loud_db: -100.0, quiet_db: 0.0 }
    }
}

impl Leveler {
    /// Writes the next frame of 256 samples to `raised`, without what is below 100 Hz and raised if faint, within -1
    /// to 1. Returns how loud it was before, in decibels below full scale (rms, above 100 Hz); -100 for silence.
    pub fn raise(&mut self, frame: &[i16; FRAME_SAMPLES], raised: &mut [f32; FRAME_SAMPLES]) -> f32 {
        *raised = frame.map(|sample| self.rumble.pass(f32::from(sample)));
        let power = raised.iter().map(|s| s * s).sum::<f32>() / FRAME_SAMPLES as f32;
        let gain = 10f32.powf(self.gain_db(power) / 20.0) / 32768.0;
        for sample in raised {
            *sample = (*sample * gain).clamp(-1.0, 1.0);
        }
        decibels(power)
    }

    fn gain_db(&mut self, power: f32) -> f32 {
        let smooth = self.power.map_or(power, |before| before + (power - before) * SMOOTHING);
        self.power = Some(smooth);
        let level_db = decibels(smooth);
        self.loud_db = (self.loud_db - LOUD_FADE_DB).max(level_db);
        self.quiet_db = (self.quiet_db + QUIET_FADE_DB).min(level_db);
        let stands_out_db = self.loud_db - self.quiet_db - NOISE_RANGE_DB;
        (LEVEL_DB - self.loud_db).min(stands_out_db).clamp(0.0, GAIN_DB_MAX)
    }
}

/// Butterworth filter of second order that takes away what is below 100 Hz: wind, wheels and hum, not speech.
#[derive(Default)]
struct HighPass {
    x: [f32; 2],
    y: [f32; 2],
}

impl HighPass {
    fn pass(&mut self, x: f32) -> f32 {
        // Coefficients for 100 Hz at 16 kHz.
        const B: f32 = 0.972_613_9;
        const A: [f32; 2] = [-1.944_477_7, 0.945_977_7];
        let y = B * (x - 2.0 * self.x[0] + self.x[1]) - A[0] * self.y[0] - A[1] * self.y[1];
        self.x = [x, self.x[0]];
        // What has died away must not linger as numbers too small to be fast.
        self.y = [if y.abs() < 1e-6 { 0.0 } else { y }, self.y[0]];
        y
    }
}

/// Decibels below full scale of a mean square of 16-bit samples.
fn decibels(power: f32) -> f32 {
    (10.0 * (power / (32768.0 * 32768.0)).log10()).max(-100.0)
}
