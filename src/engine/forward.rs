//! The forward pass: one path for decode (one token) and prefill (a batch of tokens).
//!
//! Matrix products write panel-major buffers, `[panel of 32 rows][token][32]`, so that the threads that
//! share a product's panels write contiguous, disjoint parts ([`Team::split`]). With one token that is
//! a plain vector. All buffers are made beforehand: decoding does not allocate.
//!
//! A layer is five stages with a barrier behind each, and nothing between them: queries, keys and values;
//! attention; its output; gate and up; down. What a product needs of the whole vector of one token, norm
//! and quantization, every thread computes for itself: done by one it would need a barrier more, behind
//! which the others would only wait. It is the same arithmetic in each, so the same bits. With a batch the
//! tokens are shared out in a stage of their own instead.
//!
//! The residual stream is written in the stages of output and down only, which read other buffers; the
//! borrows of each stage say so.

use std::ops::Range;

use bitjoule_kernels::vector::{self, ATTEND_TOKENS, Attend, KvElement};
use bitjoule_kernels::{Format, Isa, Matrix, PANEL_ROWS, Scratch, TokenInput};

use half::f16;

use crate::error::{Error, Result};
use crate::model::{Activation, Config, Model, RopePairs};
use crate::units::Bytes;

use super::cache::{Elements, KvType, Shape};
use super::memory::Lengths;
use super::profile::{Laps, Operation, Span};
use super::team::{Team, share};

/// What an engine is made with.
#[derive(Debug, Clone, Copy)]
pub struct EngineOptions {
    /// Threads, at least 1.
    pub threads: usize,
    /// Element type of the KV cache.
    pub kv: KvType,
    /// Tokens that the KV cache holds.
    pub context: usize,
    /// Most tokens processed at a time; longer prompts are cut.
    pub batch: usize,
    /// Whether to note where the time goes: see [`Engine::take_profile`].
    pub profile: bool,
}

/// A model, its KV cache and the threads that run it.
#[derive(Debug)]
pub struct Engine {
    model: Model,
    isa: Isa,
    batch: usize,
    kv_type: KvType,
    team: Team,
    shape: Shape,
    cache: Elements,
    /// Layers that a pass computes, from the first.
    layers: usize,
    /// Tokens in the cache.
    position: usize,
    rope: Rope,
    buffers: Buffers,
    locals: Vec<Local>,
}

/// Buffers shared by all threads, for a whole batch.
#[derive(Debug)]
struct Buffers {
    /// Residual stream, panel-major.
    x: Vec<f32>,
    /// Queries, keys, values, one behind the other, each panel-major.
    qkv: Vec<f32>,
    /// Result of attention, `[head][token][padded head]`.
    attention: Vec<f32>,
    /// Gated activation, panel-major.
    ffn: Vec<f32>,
    /// Input of the next product, for each token of a batch.
    inputs: Vec<TokenInput>,
    /// Logits of the tokens that were asked for, panel-major.
    logits: Vec<f32>,
}

/// Working memory of one thread.
#[derive(Debug)]
struct Local {
    place: Place,
    scratch: Scratch,
    /// Input of a product for a single token.
    input: TokenInput,
    /// A token's vector, or a panel's products.
    a: Vec<f32>,
    /// Padded heads of a few tokens: queries, own keys, own values.
    heads: [Vec<f32>; 3],
    /// Attention weights of a few tokens.
    scores: Vec<f32>,
    /// On in the leader's working memory, if the engine was made so.
    laps: Laps,
}

/// Which of the threads one is.
#[derive(Debug, Clone, Copy)]
struct Place {
    member: usize,
    threads: usize,
}

/// What all threads multiply after a product.
#[derive(Clone, Copy)]
enum Next<'a> {
    One(&'a Matrix),
    Qkv([&'a Matrix; 3]),
}

impl Place {
    /// Tells the product that comes now which of its weights this thread needs for the one behind it.
    fn expect(self, scratch: &mut Scratch, next: Next<'_>) {
        match next {
            Next::One(matrix) => scratch.expect(matrix, share(matrix.panels(), self.member, self.threads)),
            Next::Qkv(matrices) => {
                let all = matrices.iter().map(|m| m.panels()).sum();
                if let Some((matrix, panels)) = parts(matrices, share(all, self.member, self.threads)).next()
                {
                    scratch.expect(matrix, panels);
                }
            }
        }
    }
}

/// The part that a range of panels of some matrices, counted one behind the other, has in each of them, where it
/// has any.
fn parts(matrices: [&Matrix; 3], range: Range<usize>) -> impl Iterator<Item = (&Matrix, Range<usize>)> {
    let mut first = 0;
    let parts = matrices.map(|matrix| {
        let own = first..first + matrix.panels();
        first = own.end;
        let (start, end) = (range.start.max(own.start), range.end.min(own.end));
        (matrix, start.saturating_sub(own.start)..end.saturating_sub(own.start))
    });
    parts.into_iter().filter(|(_, panels)| !panels.is_empty())
}

/// Cosines and sines of the rotary embedding, `[position][pair]`.
#[derive(Debug)]
struct Rope {
    cos: Vec<f32>,
    sin: Vec<f32>,
    dim: usize,
    pairs: RopePairs,
}

impl Rope {
    /// Angles in f64: `position * base^(-2 i / dim)` (Su et al., arXiv:2104.09864).
    fn new(config: &Config, context: usize) -> Self {
        let dim = config.rope_dim;
        let base = f64::from(config.rope_base);
        let table = (0..context).flat_map(|position| {
            (0..dim / 2).map(move |i| {
                let angle = position as f64 * base.powf(-2.0 * i as f64 / dim as f64);
                (angle.cos() as f32, angle.sin() as f32)
            })
        });
        let (cos, sin) = table.unzip();
        Rope { cos, sin, dim, pairs: config.architecture.rope_pairs() }
    }

    /// Rotates a head in place.
    fn rotate(&self, isa: Isa, head: &mut [f32], position: usize) {
        let half = self.dim / 2;
        let angles = position * half..(position + 1) * half;
        let (cos, sin) = (&self.cos[angles.clone()], &self.sin[angles]);
        match self.pairs {
            RopePairs::Halves => {
                let (a, b) = head[..2 * half].split_at_mut(half);
                vector::rotate(isa, a, b, cos, sin);
            }
            RopePairs::Neighbours => {
                for ((pair, cos), sin) in head.chunks_exact_mut(2).zip(cos).zip(sin) {
                    let (x, y) = (pair[0], pair[1]);
                    pair[0] = x * cos - y * sin;
                    pair[1] = x * sin + y * cos;
                }
            }
        }
    }
}

/// Copies elements `range` of token `t` out of a panel-major buffer of `n` tokens.
fn gather(panels: &[f32], n: usize, t: usize, range: Range<usize>, out: &mut [f32]) {
    let mut at = range.start;
    let mut out = out;
    while at < range.end {
        let (panel, row) = (at / PANEL_ROWS, at % PANEL_ROWS);
        let len = (PANEL_ROWS - row).min(range.end - at);
        let (head, tail) = out.split_at_mut(len);
        head.copy_from_slice(&panels[(panel * n + t) * PANEL_ROWS + row..][..len]);
        out = tail;
        at += len;
    }
}

impl Engine {
    /// An engine for `model`.
    ///
    /// # Errors
    /// If the context exceeds what the model was made for, or the memory for it is refused.
    pub fn new(model: Model, options: EngineOptions) -> Result<Self> {
        let config = &model.config;
        let EngineOptions { kv, context, profile, .. } = options;
        if context > config.context {
            return Err(Error::input(format!(
                "a context of {context} tokens is more than the {} that the model was made for",
                config.context
            )));
        }
        let lengths = Lengths::new(&options, config);
        let Lengths { batch, threads, shape, widest, .. } = lengths;
        let format = model.kernel.format();
        let input = |tables| {
            let mut input = TokenInput::new(widest);
            if tables {
                input.reserve_tables(model.isa, format, widest);
            }
            input
        };
        let buffers = Buffers {
            x: vec![0.0; lengths.x],
            qkv: vec![0.0; lengths.qkv],
            attention: vec![0.0; lengths.attention],
            ffn: vec![0.0; lengths.ffn],
            inputs: (0..batch).map(|_| input(!format.is_exact())).collect(),
            logits: vec![0.0; lengths.logits],
        };
        let locals = (0..threads).map(|member| Local {
            place: Place { member, threads },
            scratch: Scratch::new(widest),
            input: input(true),
            a: vec![0.0; lengths.products],
            heads: std::array::from_fn(|_| vec![0.0; lengths.heads]),
            scores: vec![0.0; lengths.scores],
            laps: Laps::new(profile && member == 0),
        });
        Ok(Engine {
            locals: locals.collect(),
            buffers,
            rope: Rope::new(config, context),
            cache: Elements::new(kv, shape)?,
            layers: model.config.layers,
            position: 0,
            shape,
            team: Team::new(threads),
            isa: model.isa,
            batch,
            kv_type: kv,
            model,
        })
    }

    /// The model.
    pub fn model(&self) -> &Model {
        &self.model
    }

    /// Tokens in the KV cache.
    pub fn position(&self) -> usize {
        self.position
    }

    /// Goes back to where the cache held `position` tokens.
    ///
    /// # Panics
    /// If it never held so many.
    pub fn rewind(&mut self, position: usize) {
        assert!(position <= self.position, "the cache holds {} tokens", self.position);
        self.position = position;
    }

    /// Forgets all tokens.
    pub fn clear(&mut self) {
        self.position = 0;
    }

    /// Computes only the first `layers` of the model's layers from now on; the cache is empty after it.
    ///
    /// # Panics
    /// If the model has fewer.
    pub fn compute_layers(&mut self, layers: usize) {
        assert!(layers <= self.model.config.layers, "the model has {} layers", self.model.config.layers);
        self.layers = layers;
        self.clear();
    }

    /// Where the time of all passes since the last call went, if the engine was made to note it.
    pub fn take_profile(&mut self) -> Option<Vec<Span>> {
        self.locals[0].laps.take()
    }

    /// Bytes that one decode step must read with `context` tokens in the cache: every multiplied weight
    /// once, at its format's bits, and the keys and values. Norms and the one embedding row are left
    /// out: together they are less than a thousandth.
    pub fn decode_bytes(&self, context: usize) -> Bytes {
        let config = &self.model.config;
        let weights: u64 = self.model.multiplied().map(Matrix::payload_bytes).sum();
        let kv = 2 * config.layers * config.kv_heads * config.head_dim * context;
        Bytes(weights + kv as u64 * self.kv_type.bytes())
    }

    /// Reads every weight that a decode step multiplies, as often and in the order that it does, with all
    /// threads and without arithmetic: the time it takes is the least that the weights of a step can take,
    /// here and now. Returns the bytes read.
    pub fn read_weights(&mut self) -> Bytes {
        let (model, threads) = (&self.model, self.team.threads());
        let mut checksums = vec![0u64; threads];
        self.team.split(&mut checksums, 1, &mut self.locals, |_, sums, local| {
            let Local { place, scratch, .. } = local;
            // Behind the last matrix comes the next step's first.
            let next = model.multiplied().skip(1).chain(model.multiplied().take(1));
            for (matrix, next) in model.multiplied().zip(next) {
                place.expect(scratch, Next::One(next));
                let panels = share(matrix.panels(), place.member, place.threads);
                sums[0] = sums[0].wrapping_add(matrix.read(panels, scratch));
            }
        });
        std::hint::black_box(checksums);
        Bytes(model.multiplied().map(|m| m.packed_bytes() as u64).sum())
    }

    /// Appends `tokens`, in batches, and computes the logits of the last one.
    ///
    /// # Errors
    /// If there are none, one is not in the vocabulary, or the cache is full.
    pub fn prefill(&mut self, tokens: &[u32]) -> Result<&[f32]> {
        if tokens.is_empty() {
            return Err(Error::input("the prompt is empty; give at least one token"));
        }
        self.check(tokens)?;
        let mut left = tokens;
        while !left.is_empty() {
            let (now, later) = left.split_at(self.batch.min(left.len()));
            let wanted = if later.is_empty() { now.len() - 1..now.len() } else { 0..0 };
            self.forward(now, wanted);
            left = later;
        }
        Ok(self.logits())
    }

    /// Appends one token and computes its logits. Does not allocate.
    ///
    /// # Errors
    /// If it is not in the vocabulary, or the cache is full.
    pub fn decode(&mut self, token: u32) -> Result<&[f32]> {
        self.check(&[token])?;
        self.forward(&[token], 0..1);
        Ok(self.logits())
    }

    /// Appends `tokens` and returns the logits of each: for verification, not for speed.
    ///
    /// # Errors
    /// As [`prefill`](Self::prefill).
    pub fn logits_of_each(&mut self, tokens: &[u32]) -> Result<Vec<Vec<f32>>> {
        self.check(tokens)?;
        let vocab = self.model.config.vocab;
        let mut all = Vec::with_capacity(tokens.len());
        for tokens in tokens.chunks(self.batch) {
            let n = tokens.len();
            let room = vocab.next_multiple_of(PANEL_ROWS) * n;
            if self.buffers.logits.len() < room {
                self.buffers.logits.resize(room, 0.0);
            }
            self.forward(tokens, 0..n);
            for t in 0..n {
                let mut logits = vec![0.0; vocab];
                gather(&self.buffers.logits, n, t, 0..vocab, &mut logits);
                all.push(logits);
            }
        }
        Ok(all)
    }

    fn check(&self, tokens: &[u32]) -> Result<()> {
        let vocab = self.model.config.vocab;
        if let Some(token) = tokens.iter().find(|&&t| t as usize >= vocab) {
            return Err(Error::input(format!("token {token} is not in the model's vocabulary of {vocab}")));
        }
        let room = self.shape.context - self.position;
        if tokens.len() > room {
            return Err(Error::input(format!(
                "{} more tokens do not fit the context of {}, which holds {}",
                tokens.len(),
                self.shape.context,
                self.position
            )));
        }
        Ok(())
    }

    /// Logits of the last forward pass for one token.
    fn logits(&self) -> &[f32] {
        &self.buffers.logits[..self.model.config.vocab]
    }

    /// Appends a batch and computes the logits of the tokens `wanted`.
    fn forward(&mut self, tokens: &[u32], wanted: Range<usize>) {
        self.locals[0].laps.start();
        let mut pass = Pass {
            model: &self.model,
            isa: self.isa,
            team: &self.team,
            n: tokens.len(),
            position: self.position,
            shape: self.shape,
            rope: &self.rope,
            buffers: &mut self.buffers,
            locals: &mut self.locals,
        };
        pass.embed(tokens);
        for layer in 0..self.layers {
            let range = layer * self.shape.layer_len()..(layer + 1) * self.shape.layer_len();
            match &mut self.cache {
                Elements::F16(e) => pass.layer(layer, &mut e.elements::<f16>()[range]),
                Elements::F32(e) => pass.layer(layer, &mut e.elements::<f32>()[range]),
            }
        }
        pass.head(wanted);
        self.position += tokens.len();
    }
}

/// One batch on its way through the model.
struct Pass<'a> {
    model: &'a Model,
    isa: Isa,
    team: &'a Team,
    n: usize,
    position: usize,
    shape: Shape,
    rope: &'a Rope,
    buffers: &'a mut Buffers,
    locals: &'a mut [Local],
}

/// A vector for each token, in parts: part p of token t is at `(p * n + t) * stride`.
#[derive(Clone, Copy)]
struct Vectors<'a> {
    data: &'a [f32],
    n: usize,
    /// Elements of a part.
    part: usize,
    /// From one part to the next.
    stride: usize,
}

impl<'a> Vectors<'a> {
    /// The first `len` elements of token `t`: where they are if they lie side by side, else in `room`.
    fn get<'r>(self, t: usize, len: usize, room: &'r mut [f32]) -> &'r [f32]
    where
        'a: 'r,
    {
        if self.n == 1 && self.part == self.stride {
            return &self.data[..len];
        }
        let room = &mut room[..len];
        for (part, out) in room.chunks_mut(self.part).enumerate() {
            out.copy_from_slice(&self.data[(part * self.n + t) * self.stride..][..out.len()]);
        }
        room
    }
}

/// How the inputs of a product come from vectors.
#[derive(Clone, Copy)]
struct Preparation<'a> {
    isa: Isa,
    /// Elements of a vector.
    len: usize,
    norm: Option<&'a [f32]>,
    eps: f32,
    /// Format of the ternary matrices that the inputs are for; others take them as they are.
    ternary: Option<Format>,
}

impl Preparation<'_> {
    /// The input of token `t`.
    fn fill(self, vectors: Vectors<'_>, t: usize, room: &mut [f32], input: &mut TokenInput) {
        let vector = vectors.get(t, self.len, room);
        let values = input.values_mut(self.len);
        match self.norm {
            Some(weight) => vector::rms_norm(self.isa, vector, weight, self.eps, values),
            None => values.copy_from_slice(vector),
        }
        if let Some(format) = self.ternary {
            input.quantize(self.isa);
            // A batch is multiplied by tables only if the format cannot do otherwise.
            if vectors.n == 1 || !format.is_exact() {
                input.tabulate(self.isa, format, self.len);
            }
        }
    }

    /// The inputs within a stage of a product: a batch's are made beforehand, those of a single token by
    /// each thread for itself, in `own`.
    fn inputs<'l>(
        self,
        batch: &'l [TokenInput],
        vectors: Vectors<'_>,
        own: &'l mut TokenInput,
        room: &mut [f32],
        laps: &mut Laps,
    ) -> &'l [TokenInput] {
        if vectors.n > 1 {
            return batch;
        }
        self.fill(vectors, 0, room, own);
        laps.work(Operation::NormQuantize);
        std::slice::from_ref(own)
    }
}

/// The buffer that inputs are taken from.
#[derive(Clone, Copy)]
enum Source {
    Residual,
    Attention,
    Ffn,
}

impl<'a> Pass<'a> {
    /// Writes the tokens' rows of the embedding to the residual stream.
    fn embed(&mut self, tokens: &[u32]) {
        let (n, embedding) = (self.n, &self.model.embedding);
        let Buffers { x, inputs, .. } = &mut *self.buffers;
        let hidden = embedding.cols();
        if n == 1 {
            embedding.row(tokens[0] as usize, &mut x[..hidden]);
            self.locals[0].laps.work(Operation::Embedding);
            return;
        }
        self.team.split(&mut inputs[..n], 1, self.locals, |range, inputs, local| {
            for (t, input) in range.zip(inputs) {
                embedding.row(tokens[t] as usize, input.values_mut(hidden));
            }
            local.laps.work(Operation::Embedding);
        });
        self.locals[0].laps.wait(Operation::Embedding);
        let (inputs, unit) = (&inputs[..n], n * PANEL_ROWS);
        let x = &mut x[..hidden.div_ceil(PANEL_ROWS) * unit];
        self.team.split(x, unit, self.locals, |panels, x, local| {
            for (panel, x) in panels.zip(x.chunks_exact_mut(unit)) {
                let rows = panel * PANEL_ROWS..((panel + 1) * PANEL_ROWS).min(hidden);
                for (input, x) in inputs.iter().zip(x.chunks_exact_mut(PANEL_ROWS)) {
                    x[..rows.len()].copy_from_slice(&input.values()[rows.clone()]);
                }
            }
            local.laps.work(Operation::Embedding);
        });
        self.locals[0].laps.wait(Operation::Embedding);
    }

    fn layer<T: KvElement>(&mut self, index: usize, cache: &mut [T]) {
        let layer = self.model.layer(index);
        let ternary = Some(self.model.kernel.format()).filter(|f| f.is_ternary());
        let (attn_sub_norm, ffn_sub_norm) = (layer.attn_sub_norm.as_deref(), layer.ffn_sub_norm.as_deref());
        let config = &self.model.config;

        let prepare = self.prepare(Source::Residual, config.hidden, Some(&layer.attn_norm), ternary);
        self.qkv(prepare, [&layer.q, &layer.k, &layer.v], Next::One(&layer.o));
        if self.n > 1 {
            self.store(cache);
        }
        self.attention(cache);
        let heads = config.heads * config.head_dim;
        let prepare = self.prepare(Source::Attention, heads, attn_sub_norm, ternary);
        self.attention_output(prepare, &layer.o, Next::One(&layer.gate), cache);
        let prepare = self.prepare(Source::Residual, config.hidden, Some(&layer.ffn_norm), ternary);
        self.gate_up(prepare, &layer.gate, &layer.up, Next::One(&layer.down));
        let prepare = self.prepare(Source::Ffn, config.ffn, ffn_sub_norm, ternary);
        let next = if index + 1 < config.layers {
            let layer = self.model.layer(index + 1);
            Next::Qkv([&layer.q, &layer.k, &layer.v])
        } else {
            Next::One(self.model.head())
        };
        self.down(prepare, &layer.down, next);
    }

    /// How the inputs of the next product are made; for a batch, they are.
    fn prepare<'m>(
        &mut self,
        source: Source,
        len: usize,
        norm: Option<&'m [f32]>,
        ternary: Option<Format>,
    ) -> Preparation<'m> {
        let preparation = Preparation { isa: self.isa, len, norm, eps: self.model.config.norm_eps, ternary };
        if self.n > 1 {
            self.prepare_batch(preparation, source, 0..self.n);
        }
        preparation
    }

    /// Makes the inputs of some tokens of a batch, each by one thread.
    fn prepare_batch(&mut self, preparation: Preparation<'_>, source: Source, tokens: Range<usize>) {
        let (n, config, shape) = (self.n, &self.model.config, self.shape);
        let Buffers { x, attention, ffn, inputs, .. } = &mut *self.buffers;
        let vectors = match source {
            Source::Residual => panels(x, n),
            Source::Attention => heads(attention, n, config, shape),
            Source::Ffn => panels(ffn, n),
        };
        let first = tokens.start;
        self.team.split(&mut inputs[tokens], 1, self.locals, |range, inputs, local| {
            for (t, input) in range.zip(inputs) {
                preparation.fill(vectors, first + t, &mut local.a, input);
            }
            local.laps.work(Operation::NormQuantize);
        });
        self.locals[0].laps.wait(Operation::NormQuantize);
    }

    /// Queries, keys and values, in one stage.
    fn qkv(&mut self, preparation: Preparation<'_>, matrices: [&Matrix; 3], next: Next<'_>) {
        let (n, unit) = (self.n, self.n * PANEL_ROWS);
        let all: usize = matrices.iter().map(|m| m.panels()).sum();
        let Buffers { x, qkv, inputs, .. } = &mut *self.buffers;
        let (batch, vectors) = (&inputs[..n], panels(x, n));
        self.team.split(&mut qkv[..all * unit], unit, self.locals, |range, mut out, local| {
            let Local { place, scratch, input, a, laps, .. } = local;
            let inputs = preparation.inputs(batch, vectors, input, a, laps);
            let mut parts = parts(matrices, range).peekable();
            while let Some((matrix, panels)) = parts.next() {
                let (now, later) = out.split_at_mut(panels.len() * unit);
                out = later;
                match parts.peek() {
                    Some((matrix, panels)) => scratch.expect(matrix, panels.clone()),
                    None => place.expect(scratch, next),
                }
                matrix.mul(panels, inputs, scratch, now);
            }
            laps.work(Operation::Qkv);
        });
        self.locals[0].laps.wait(Operation::Qkv);
    }

    /// Puts a batch's keys and values into the cache.
    fn store<T: KvElement>(&mut self, cache: &mut [T]) {
        let put = self.put();
        let qkv = &self.buffers.qkv[..];
        let unit = self.shape.head_len();
        self.team.split(cache, unit, self.locals, |heads, cache, local| {
            for (head, cache) in heads.zip(cache.chunks_exact_mut(unit)) {
                put.head(qkv, head, cache, &mut local.heads[0]);
            }
            local.laps.work(Operation::Attention);
        });
        self.locals[0].laps.wait(Operation::Attention);
    }

    /// What it takes to put keys and values into the cache.
    fn put(&self) -> Put<'a> {
        Put {
            isa: self.isa,
            rope: self.rope,
            shape: self.shape,
            n: self.n,
            position: self.position,
            dim: self.model.config.head_dim,
            starts: qkv_starts(&self.model.config, self.n),
        }
    }

    /// Attention of every head over all tokens up to its own, a few tokens at a time.
    fn attention<T: KvElement>(&mut self, cache: &[T]) {
        let (n, position, shape, rope, isa) = (self.n, self.position, self.shape, self.rope, self.isa);
        let config = &self.model.config;
        let (dim, group) = (config.head_dim, config.heads / config.kv_heads);
        let scale = 1.0 / (dim as f32).sqrt();
        let starts = qkv_starts(config, n);
        let Buffers { qkv, attention, .. } = &mut *self.buffers;
        let [queries, own_keys, own_values] = starts.map(|start| &qkv[start..]);
        let out = &mut attention[..config.heads * n * shape.dim];
        self.team.split(out, n * shape.dim, self.locals, |heads, out, local| {
            let last = heads.end - 1;
            for (head, out) in heads.zip(out.chunks_exact_mut(n * shape.dim)) {
                let next = &cache[(head + 1).min(last) / group * shape.head_len()..];
                let cache = &cache[head / group * shape.head_len()..][..shape.head_len()];
                let (keys, values) = cache.split_at(shape.context * shape.dim);
                let rows = |head: usize| head * dim..(head + 1) * dim;
                let tiles = out.chunks_mut(ATTEND_TOKENS * shape.dim);
                for (first, out) in (0..n).step_by(ATTEND_TOKENS).zip(tiles) {
                    let tokens = out.len() / shape.dim;
                    let before = position + first;
                    let [query, own_key, own_value] = local.heads.each_mut().map(|h| &mut h[..out.len()]);
                    for t in 0..tokens {
                        let at = t * shape.dim..t * shape.dim + dim;
                        gather(queries, n, first + t, rows(head), &mut query[at.clone()]);
                        gather(own_keys, n, first + t, rows(head / group), &mut own_key[at.clone()]);
                        gather(own_values, n, first + t, rows(head / group), &mut own_value[at.clone()]);
                        rope.rotate(isa, &mut query[at.clone()], before + t);
                        rope.rotate(isa, &mut own_key[at], before + t);
                    }
                    let cached = (before + tokens - 1) * shape.dim;
                    let args = Attend {
                        query,
                        keys: &keys[..cached],
                        values: &values[..cached],
                        next: &next[..cached],
                        own_key,
                        own_value,
                        scale,
                        scores: &mut local.scores[..tokens * (before + tokens)],
                        out,
                    };
                    vector::attend_tokens(isa, tokens, args);
                }
            }
            local.laps.work(Operation::Attention);
        });
        self.locals[0].laps.wait(Operation::Attention);
    }

    /// Adds the product with the result of attention to the residual stream. A single token's keys and
    /// values are put into the cache here, where nobody reads it: its own attention does not need them
    /// there, and a stage of their own would be a barrier more.
    fn attention_output<T: KvElement>(
        &mut self,
        preparation: Preparation<'_>,
        matrix: &Matrix,
        next: Next<'_>,
        cache: &mut [T],
    ) {
        let (n, unit, head_len) = (self.n, self.n * PANEL_ROWS, self.shape.head_len());
        let put = self.put();
        let Buffers { x, attention, inputs, qkv, .. } = &mut *self.buffers;
        let (batch, qkv) = (&inputs[..n], &qkv[..]);
        let vectors = heads(attention, n, &self.model.config, self.shape);
        let x = &mut x[..matrix.panels() * unit];
        let cache = if n == 1 { cache } else { &mut [] };
        self.team.split_two((x, unit), (cache, head_len), self.locals, |panels, x, heads, cache, local| {
            let Local { place, scratch, input, a, laps, heads: room, .. } = local;
            let inputs = preparation.inputs(batch, vectors, input, a, laps);
            for (head, cache) in heads.zip(cache.chunks_exact_mut(head_len)) {
                put.head(qkv, head, cache, &mut room[0]);
            }
            if n == 1 {
                laps.work(Operation::Attention);
            }
            add_product(matrix, panels, unit, inputs, (scratch, *place, next), a, x);
            laps.work(Operation::AttnOutput);
        });
        self.locals[0].laps.wait(Operation::AttnOutput);
    }

    /// The gated activation, each thread for its own rows, so that it needs nothing of the others.
    fn gate_up(&mut self, preparation: Preparation<'_>, gate: &Matrix, up: &Matrix, next: Next<'_>) {
        let (isa, n, unit) = (self.isa, self.n, self.n * PANEL_ROWS);
        let activation = self.model.config.architecture.activation();
        let Buffers { x, ffn, inputs, .. } = &mut *self.buffers;
        let (batch, vectors) = (&inputs[..n], panels(x, n));
        self.team.split(&mut ffn[..up.panels() * unit], unit, self.locals, |panels, out, local| {
            let Local { place, scratch, input, a, laps, .. } = local;
            let inputs = preparation.inputs(batch, vectors, input, a, laps);
            let end = panels.end;
            for (panels, out) in groups(panels, unit, a.len()).zip(out.chunks_mut(group_len(unit, a.len()))) {
                let gated = &mut a[..out.len()];
                scratch.expect(up, panels.clone());
                gate.mul(panels.clone(), inputs, scratch, gated);
                if panels.end == end {
                    place.expect(scratch, next);
                }
                up.mul(panels, inputs, scratch, out);
                match activation {
                    Activation::Silu => vector::silu_mul(isa, gated, out),
                    Activation::Relu2 => vector::relu2_mul(isa, gated, out),
                }
            }
            laps.work(Operation::GateUp);
        });
        self.locals[0].laps.wait(Operation::GateUp);
    }

    /// Adds the product with the gated activation to the residual stream.
    fn down(&mut self, preparation: Preparation<'_>, matrix: &Matrix, next: Next<'_>) {
        let (n, unit) = (self.n, self.n * PANEL_ROWS);
        let Buffers { x, ffn, inputs, .. } = &mut *self.buffers;
        let (batch, vectors) = (&inputs[..n], panels(ffn, n));
        self.team.split(&mut x[..matrix.panels() * unit], unit, self.locals, |panels, x, local| {
            let Local { place, scratch, input, a, laps, .. } = local;
            let inputs = preparation.inputs(batch, vectors, input, a, laps);
            add_product(matrix, panels, unit, inputs, (scratch, *place, next), a, x);
            laps.work(Operation::Down);
        });
        self.locals[0].laps.wait(Operation::Down);
    }

    /// Logits of the tokens `wanted`, from unquantized inputs.
    fn head(&mut self, wanted: Range<usize>) {
        if wanted.is_empty() {
            return;
        }
        let (isa, n, config) = (self.isa, self.n, &self.model.config);
        let norm = Some(&self.model.output_norm[..]);
        let preparation = Preparation { isa, len: config.hidden, norm, eps: config.norm_eps, ternary: None };
        if n > 1 {
            self.prepare_batch(preparation, Source::Residual, wanted.clone());
        }
        let (head, unit) = (self.model.head(), wanted.len() * PANEL_ROWS);
        let first = self.model.layer(0);
        let next = Next::Qkv([&first.q, &first.k, &first.v]);
        let Buffers { x, logits, inputs, .. } = &mut *self.buffers;
        let (batch, vectors) = (&inputs[wanted], panels(x, n));
        self.team.split(&mut logits[..head.panels() * unit], unit, self.locals, |panels, out, local| {
            let Local { place, scratch, input, a, laps, .. } = local;
            let inputs = preparation.inputs(batch, vectors, input, a, laps);
            place.expect(scratch, next);
            head.mul(panels, inputs, scratch, out);
            laps.work(Operation::Head);
        });
        self.locals[0].laps.wait(Operation::Head);
    }
}

/// The vectors in a panel-major buffer of `n` tokens.
fn panels(data: &[f32], n: usize) -> Vectors<'_> {
    Vectors { data, n, part: PANEL_ROWS, stride: PANEL_ROWS }
}

/// The vectors in the result of attention.
fn heads<'a>(data: &'a [f32], n: usize, config: &Config, shape: Shape) -> Vectors<'a> {
    Vectors { data, n, part: config.head_dim, stride: shape.dim }
}

/// Starts of queries, keys and values of `n` tokens in their buffer.
fn qkv_starts(config: &Config, n: usize) -> [usize; 3] {
    let q = (config.heads * config.head_dim).next_multiple_of(PANEL_ROWS);
    let kv = (config.kv_heads * config.head_dim).next_multiple_of(PANEL_ROWS);
    [0, q * n, (q + kv) * n]
}

/// Puts keys, which it rotates, and values into the cache.
struct Put<'a> {
    isa: Isa,
    rope: &'a Rope,
    shape: Shape,
    n: usize,
    position: usize,
    dim: usize,
    starts: [usize; 3],
}

impl Put<'_> {
    /// Those of all tokens of the batch for one head, whose part of the cache is `cache`.
    fn head<T: KvElement>(&self, qkv: &[f32], head: usize, cache: &mut [T], room: &mut [f32]) {
        let &Put { isa, shape, n, position, dim, starts: [_, keys, values], .. } = self;
        let (cached_keys, cached_values) = cache.split_at_mut(shape.context * shape.dim);
        let room = &mut room[..dim];
        for t in 0..n {
            let at = (position + t) * shape.dim..(position + t) * shape.dim + dim;
            gather(&qkv[keys..], n, t, head * dim..(head + 1) * dim, room);
            self.rope.rotate(isa, room, position + t);
            vector::to_cache(isa, room, &mut cached_keys[at.clone()]);
            gather(&qkv[values..], n, t, head * dim..(head + 1) * dim, room);
            vector::to_cache(isa, room, &mut cached_values[at]);
        }
    }
}

/// Adds the product of some panels to `x`, which is theirs.
#[allow(clippy::too_many_arguments, reason = "the borrows of a stage, one by one")]
fn add_product(
    matrix: &Matrix,
    panels: Range<usize>,
    unit: usize,
    inputs: &[TokenInput],
    (scratch, place, next): (&mut Scratch, Place, Next<'_>),
    room: &mut [f32],
    x: &mut [f32],
) {
    let (len, end) = (group_len(unit, room.len()), panels.end);
    for (panels, x) in groups(panels, unit, room.len()).zip(x.chunks_mut(len)) {
        let product = &mut room[..x.len()];
        if panels.end == end {
            place.expect(scratch, next);
        }
        matrix.mul(panels, inputs, scratch, product);
        x.iter_mut().zip(product).for_each(|(x, y)| *x += *y);
    }
}

/// Elements of as many whole panels of `unit` elements as fit into `room`, at least one.
fn group_len(unit: usize, room: usize) -> usize {
    (room / unit).max(1) * unit
}

/// `panels` in groups of [`group_len`] elements: with one token a thread's whole share, which is then one
/// long stream of memory; with a batch few at a time, so that their products stay in cache.
fn groups(panels: Range<usize>, unit: usize, room: usize) -> impl Iterator<Item = Range<usize>> {
    let n = group_len(unit, room) / unit;
    panels.clone().step_by(n).map(move |first| first..(first + n).min(panels.end))
}
