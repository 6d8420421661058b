//! Texts in the making: their tokens go through the decoder's layers, all that are read in a step as one batch.

use kernels::accelerator::Accelerator;
use kernels::copy_rows::{self, copy_caches};
use kernels::cross_attention::{self, Workspace, alignment_scores, cross_attention};
use kernels::device::Error;
use kernels::embed::{self, Tables, embed};
use kernels::memory::Memory;
use kernels::product::{Output, Shape};
use kernels::self_attention::{self, Cache, self_attention};
use kernels::view::{Half, View};

use super::inbox::Inbox;
use super::network::Network;
use super::plan::{ITEMS_MAX, Piece};
use super::product::{Input, multiply, product};
use super::sound::SoundCaches;
use crate::model::{AUDIO_POSITIONS, Dims};

/// Memory of the decoder.
pub struct Decoder<T> {
    rows: usize,
    /// Keys and values of the texts, (layers, rows, heads, text positions, 64) each.
    keys: Memory<T>,
    values: Memory<T>,
    tokens: Inbox<embed::Item>,
    items: Inbox<self_attention::Item>,
    groups: Inbox<cross_attention::Group>,
    copies: Inbox<copy_rows::Group>,
    /// The states, (items, width).
    x: Memory<f32>,
    /// Those whose logits are wanted, (rows of logits, width).
    picked: Memory<f32>,
    /// The same as a layer reads them.
    normed: Memory<T>,
    /// (items, 3 width)
    qkv: Memory<T>,
    /// (items, width)
    query: Memory<T>,
    /// (items, width)
    mixed: Memory<T>,
    /// (items, inner)
    wide: Memory<T>,
    partials: Memory<f32>,
    arrivals: Memory<u32>,
    /// (rows of logits, columns)
    logits: Memory<f32>,
    /// (heads, items, positions)
    scores: Memory<f32>,
}

/// Heads that are looked at while a text is read, and what they say: (layer, head) ascending, and for each its scores
/// (tokens, positions).
pub struct Look<'a> {
    /// The heads.
    pub heads: &'a [(usize, usize)],
    /// (heads, tokens, positions)
    pub scores: &'a mut [f32],
    /// Tokens of the whole text.
    pub tokens: usize,
    /// Tokens before those that are read.
    pub before: usize,
    /// Positions of the slot.
    pub positions: usize,
}

impl<T: Half> Decoder<T> {
    /// Room for `rows` texts and `logits` rows of logits; `heads` of one layer are looked at at most.
    pub fn new(
        device: &mut impl Accelerator,
        network: &Network<T>,
        (rows, logits, heads): (usize, usize, usize),
    ) -> Result<Decoder<T>, Error> {
        let Dims { width, inner, decoder_heads, decoder_layers, text_positions, .. } = network.dims;
        let kept = decoder_layers * rows * text_positions * width;
        let (partials, arrivals) = Workspace::lengths(ITEMS_MAX, ITEMS_MAX, decoder_heads, AUDIO_POSITIONS);
        let items = ITEMS_MAX.max(logits);
        Ok(Decoder {
            rows,
            keys: device.uninitialised(kept)?,
            values: device.uninitialised(kept)?,
            tokens: Inbox::new(device, ITEMS_MAX)?,
            items: Inbox::new(device, ITEMS_MAX)?,
            groups: Inbox::new(device, ITEMS_MAX)?,
            copies: Inbox::new(device, rows)?,
            x: device.uninitialised(ITEMS_MAX * width)?,
            picked: device.uninitialised(logits * width)?,
            normed: device.uninitialised(items * width)?,
            qkv: device.uninitialised(ITEMS_MAX * 3 * width)?,
            query: device.uninitialised(ITEMS_MAX * width)?,
            mixed: device.uninitialised(ITEMS_MAX * width)?,
            wide: device.uninitialised(ITEMS_MAX * inner)?,
            partials: device.uninitialised(partials)?,
            arrivals: device.zeroed(arrivals)?,
            logits: device.uninitialised(logits * network.columns())?,
            scores: device.uninitialised(heads * ITEMS_MAX * AUDIO_POSITIONS)?,
        })
    }

    /// Bytes of the device.
    pub fn bytes(&self) -> usize {
        let halves =
            [&self.keys, &self.values, &self.normed, &self.qkv, &self.query, &self.mixed, &self.wide];
        let floats = [&self.x, &self.picked, &self.partials, &self.logits, &self.scores];
        halves.iter().map(|memory| memory.len() * size_of::<T>()).sum::<usize>()
            + floats.iter().map(|memory| memory.len() * size_of::<f32>()).sum::<usize>()
            + self.arrivals.len() * size_of::<u32>()
            + self.tokens.bytes()
            + self.items.bytes()
            + self.groups.bytes()
            + self.copies.bytes()
    }

    /// Rows of logits that there is room for.
    pub fn logits_max(&self, network: &Network<T>) -> usize {
        self.picked.len() / network.dims.width
    }

    /// Tells the device which tokens are read next.
    pub fn put(&mut self, device: &mut impl Accelerator, piece: &Piece) -> Result<(), Error> {
        self.tokens.put(device, &piece.tokens)?;
        self.items.put(device, &piece.items)?;
        self.groups.put(device, &piece.groups)
    }

    /// Reads the tokens that were put; `next` holds those that were sampled.
    pub fn read(
        &mut self,
        device: &mut impl Accelerator,
        network: &Network<T>,
        piece: &Piece,
        caches: &mut SoundCaches<T>,
        next: &View<'_, u32>,
        mut look: Option<&mut Look<'_>>,
    ) -> Result<(), Error> {
        let Dims { width, decoder_heads: heads, text_positions: room, .. } = network.dims;
        let (count, rows) = (piece.items.len(), self.rows);
        let tables =
            Tables { embeddings: network.embeddings.view(), positions: network.text_positions.view(), width };
        embed(device, &piece.tokens, &self.tokens.view(), next, tables, &mut self.x.view_mut())?;
        let kept = rows * room * width;
        for (i, layer) in network.decoder.iter().enumerate() {
            let input = Input::Normed(&mut self.x, &layer.own.norm, &mut self.normed);
            product(device, input, &layer.own.qkv, Output::Store(self.qkv.view_mut()), count)?;
            let (mut keys, mut values) = (self.keys.view_mut(), self.values.view_mut());
            let own = i * kept..(i + 1) * kept;
            let (keys, values) = (keys.part_mut(own.clone())?, values.part_mut(own)?);
            let mut cache = Cache { keys, values, rows, room };
            let (items, mut mixed) = (self.items.view(), self.mixed.view_mut());
            self_attention(device, &self.qkv.view(), &piece.items, &items, &mut cache, &mut mixed, heads)?;
            let input = Input::Plain(&self.mixed);
            product(device, input, &layer.own.out, Output::Add(self.x.view_mut()), count)?;

            let input = Input::Normed(&mut self.x, &layer.cross_norm, &mut self.normed);
            product(device, input, &layer.cross_query, Output::Store(self.query.view_mut()), count)?;
            let (queries, groups) = (self.query.view(), self.groups.view());
            let mut workspace =
                Workspace { partials: self.partials.view_mut(), arrivals: self.arrivals.view_mut() };
            let (sound, mut mixed) = (caches.layer(i), self.mixed.view_mut());
            let asked = &piece.greatest;
            cross_attention(device, &queries, asked, &groups, &sound, &mut workspace, &mut mixed)?;
            if let Some(look) = &mut look {
                self.look(device, i, piece, caches, look)?;
            }
            let input = Input::Plain(&self.mixed);
            product(device, input, &layer.cross_out, Output::Add(self.x.view_mut()), count)?;

            let input = Input::Normed(&mut self.x, &layer.feed.norm, &mut self.normed);
            product(device, input, &layer.feed.widen, Output::Gelu(self.wide.view_mut()), count)?;
            let input = Input::Plain(&self.wide);
            product(device, input, &layer.feed.narrow, Output::Add(self.x.view_mut()), count)?;
        }
        Ok(())
    }

    /// Looks at the chosen heads of a layer.
    fn look(
        &mut self,
        device: &mut impl Accelerator,
        layer: usize,
        piece: &Piece,
        caches: &mut SoundCaches<T>,
        look: &mut Look<'_>,
    ) -> Result<(), Error> {
        let of_layer: Vec<usize> = (0..look.heads.len()).filter(|i| look.heads[*i].0 == layer).collect();
        let chosen: Vec<usize> = of_layer.iter().map(|i| look.heads[*i].1).collect();
        if chosen.is_empty() {
            return Ok(());
        }
        let (count, positions) = (piece.items.len(), look.positions);
        let (queries, groups, sound) = (self.query.view(), self.groups.view(), caches.layer(layer));
        let mut scores = self.scores.view_mut();
        let mut scores = scores.part_mut(0..chosen.len() * count * positions)?;
        let (asked, to) = (&piece.groups, &mut scores);
        alignment_scores(device, &queries, asked, &groups, &sound, &chosen, to, positions)?;
        for (own, head) in of_layer.into_iter().enumerate() {
            let from = scores.view().part(own * count * positions..(own + 1) * count * positions)?;
            let first = (head * look.tokens + look.before) * positions;
            device.download(&from, &mut look.scores[first..first + count * positions])?;
        }
        Ok(())
    }

    /// Picks out the states whose logits are wanted.
    pub fn pick(
        &mut self,
        device: &mut impl Accelerator,
        wanted: &[(usize, usize)],
        width: usize,
    ) -> Result<(), Error> {
        // What stands side by side here and there is copied at once.
        for run in wanted.chunk_by(|(item, row), next| *next == (item + 1, row + 1)) {
            let ((item, row), values) = (run[0], run.len() * width);
            let from = self.x.view().part(item * width..item * width + values)?;
            let mut picked = self.picked.view_mut();
            device.copy(&from, &mut picked.part_mut(row * width..row * width + values)?)?;
        }
        Ok(())
    }

    /// Logits of the states that were picked, or of those that were read just now: the first `rows`.
    pub fn logits(
        &mut self,
        device: &mut impl Accelerator,
        network: &Network<T>,
        rows: usize,
        picked: bool,
    ) -> Result<(), Error> {
        let states = if picked { &mut self.picked } else { &mut self.x };
        let input = Input::Normed(states, &network.decoder_norm, &mut self.normed);
        let shape = Shape { rows, depth: network.dims.width, width: network.columns() };
        let output = Output::StoreFloat(self.logits.view_mut());
        multiply(device, input, &network.embeddings.view(), None, output, shape)
    }

    /// The logits, (rows, columns).
    pub fn logits_view(&self) -> View<'_, f32> {
        self.logits.view()
    }

    /// Copies what is kept of texts.
    pub fn copy_rows(
        &mut self,
        device: &mut impl Accelerator,
        dims: Dims,
        groups: &[copy_rows::Group],
    ) -> Result<(), Error> {
        self.copies.put(device, groups)?;
        let (keys, values) = (self.keys.view_mut(), self.values.view_mut());
        let mut cache = Cache { keys, values, rows: self.rows, room: dims.text_positions };
        let size = (dims.decoder_layers, dims.decoder_heads);
        copy_caches(device, groups, &self.copies.view(), &mut cache, size)
    }

    /// The groups that were copied last, on the device.
    pub fn copies(&self) -> View<'_, copy_rows::Group> {
        self.copies.view()
    }
}
