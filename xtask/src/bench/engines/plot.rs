//! The page's drawing: a bar for how many times as fast this engine is as the better rival, with a mark at the target.

use std::fmt::Write as _;

use super::section::Section;

const WIDTH: f64 = 900.0;
const LABELS: f64 = 430.0;
const ROW: f64 = 26.0;
const TOP: f64 = 40.0;

/// The drawing as SVG.
pub fn draw(sections: &[Section]) -> String {
    let rows: Vec<(String, f64, f64)> = sections
        .iter()
        .flat_map(|section| {
            section.compared().into_iter().map(|compared| {
                let label = format!(
                    "{}, {}, {}, beam {}",
                    compared.ours.name,
                    section.kind.title(),
                    section.model,
                    section.beam
                );
                (label, compared.ratio, compared.target)
            })
        })
        .collect();
    let most = rows.iter().fold(1.0f64, |most, (_, ratio, target)| most.max(*ratio).max(*target));
    let x = |value: f64| LABELS + value / most * (WIDTH - LABELS - 50.0);
    let height = TOP + ROW * rows.len() as f64 + 10.0;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" font-family=\"sans-serif\" font-size=\"12\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n\
         <text x=\"10\" y=\"22\" font-size=\"14\">times as fast as the better rival; the dark mark is the target</text>\n"
    );
    for (number, (label, ratio, target)) in rows.iter().enumerate() {
        let y = TOP + ROW * number as f64;
        let fill = if ratio >= target { "#3a8f5c" } else { "#c98a2b" };
        let _ = writeln!(
            svg,
            "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{label}</text>\
             <rect x=\"{LABELS}\" y=\"{y:.1}\" width=\"{:.1}\" height=\"18\" fill=\"{fill}\"/>\
             <line x1=\"{mark:.1}\" x2=\"{mark:.1}\" y1=\"{:.1}\" y2=\"{:.1}\" stroke=\"#222\" stroke-width=\"2\"/>\
             <text x=\"{:.1}\" y=\"{:.1}\">{ratio:.2}</text>",
            LABELS - 8.0,
            y + 13.0,
            x(*ratio) - LABELS,
            y - 3.0,
            y + 21.0,
            x(ratio.max(*target)) + 8.0,
            y + 13.0,
            mark = x(*target),
        );
    }
    let _ = writeln!(
        svg,
        "<line x1=\"{one:.1}\" x2=\"{one:.1}\" y1=\"{:.1}\" y2=\"{:.1}\" stroke=\"#888\" stroke-dasharray=\"3 3\"/>\n</svg>",
        TOP - 8.0,
        height - 6.0,
        one = x(1.0),
    );
    svg
}

#[cfg(test)]
mod tests {
    use super::super::section::tests::example;
    use super::draw;

    #[test]
    fn each_comparison_is_a_bar() {
        let svg = draw(&[example()]);
        assert!(svg.starts_with("<svg ") && svg.ends_with("</svg>\n"));
        assert_eq!(svg.matches("fill=\"#3a8f5c\"").count(), 1);
        assert_eq!(svg.matches("fill=\"#c98a2b\"").count(), 1);
        assert!(svg.contains(">this engine, one clip of 3 to 10 s at a time, tiny.en, beam 1</text>"));
    }
}
