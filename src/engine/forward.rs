//! The forward pass: one path for decode (one token) and prefill (a batch of tokens).
//!
//! Matrix products write panel-major buffers, `[panel of 32 rows][token][32]`, so that the threads that
//! share a product's panels write contiguous, disjoint parts ([`Team::split`]). With one token that is
//! a plain vector. All buffers are made beforehand: decoding does not allocate.

use std::ops::Range;

use bitjoule_kernels::vector::{self, Attend, KvElement, LANES};
use bitjoule_kernels::{Isa, Matrix, PANEL_ROWS, Scratch, TokenInput};

use crate::error::{Error, Result};
use crate::model::{Activation, Config, Model, RopePairs};
use crate::units::Bytes;

use super::cache::{Elements, KvType, Shape};
use super::team::Team;

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
}

impl EngineOptions {
    /// Memory that the engine will allocate besides the model's weights.
    pub fn memory_bytes(&self, config: &Config) -> Bytes {
        let shape = cache_shape(config, self.context);
        let wide = config.hidden.max(config.ffn).max(config.heads * shape.dim);
        let kv = (shape.layers * shape.layer_len()) as u64 * self.kv.bytes();
        // x, q/k/v, attention, feed-forward, inputs (f32 and int8), and a row of logits.
        let buffers = (self.batch * (4 * wide + config.hidden) * 5 + config.vocab * 4) as u64;
        let locals = (self.threads * (wide * 40 + self.context * 4)) as u64;
        Bytes(kv + buffers + locals)
    }
}

fn cache_shape(config: &Config, context: usize) -> Shape {
    Shape {
        layers: config.layers,
        heads: config.kv_heads,
        context,
        dim: config.head_dim.next_multiple_of(LANES),
    }
}

/// A model, its KV cache and the threads that run it.
#[derive(Debug)]
pub struct Engine {
    model: Model,
    isa: Isa,
    batch: usize,
    kv_type: KvType,
    /// All threads, and the caller alone: for stages too small to be shared.
    team: Team,
    solo: Team,
    shape: Shape,
    cache: Elements,
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
    /// Input of the next product, for each token.
    inputs: Vec<TokenInput>,
    /// Logits of the tokens that were asked for, panel-major.
    logits: Vec<f32>,
}

/// Working memory of one thread.
#[derive(Debug)]
struct Local {
    scratch: Scratch,
    /// A token's vector, or a panel's products.
    a: Vec<f32>,
    /// Padded heads: query, own key, own value.
    heads: [Vec<f32>; 3],
    /// Attention weights.
    scores: Vec<f32>,
}

/// Cosines and sines of the rotary embedding, `[position][pair]`.
#[derive(Debug)]
struct Rope {
    table: Vec<(f32, f32)>,
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
        Rope { table: table.collect(), dim, pairs: config.architecture.rope_pairs() }
    }

    /// Rotates a head in place.
    fn rotate(&self, head: &mut [f32], position: usize) {
        let half = self.dim / 2;
        for (i, &(cos, sin)) in self.table[position * half..][..half].iter().enumerate() {
            let (a, b) = match self.pairs {
                RopePairs::Halves => (i, i + half),
                RopePairs::Neighbours => (2 * i, 2 * i + 1),
            };
            let (x, y) = (head[a], head[b]);
            head[a] = x * cos - y * sin;
            head[b] = x * sin + y * cos;
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
    /// If the context exceeds what the model was made for.
    pub fn new(model: Model, options: EngineOptions) -> Result<Self> {
        let config = &model.config;
        let EngineOptions { threads, kv, context, batch } = options;
        if context > config.context {
            return Err(Error::input(format!(
                "a context of {context} tokens is more than the {} that the model was made for",
                config.context
            )));
        }
        let shape = cache_shape(config, context);
        let (batch, threads) = (batch.clamp(1, context.max(1)), threads.max(1));
        let padded = |rows: usize| rows.next_multiple_of(PANEL_ROWS) * batch;
        let heads = config.heads * config.head_dim;
        let widest = config.hidden.max(config.ffn).max(heads);
        let format = model.kernel.format();
        let input = |i| {
            let mut input = TokenInput::new(widest);
            if i == 0 || !format.is_exact() {
                input.reserve_tables(model.isa, format, widest);
            }
            input
        };
        let buffers = Buffers {
            x: vec![0.0; padded(config.hidden)],
            qkv: vec![0.0; padded(heads) + 2 * padded(config.kv_heads * config.head_dim)],
            attention: vec![0.0; config.heads * batch * shape.dim],
            ffn: vec![0.0; padded(config.ffn)],
            inputs: (0..batch).map(input).collect(),
            logits: vec![0.0; config.vocab.next_multiple_of(PANEL_ROWS)],
        };
        let locals = (0..threads).map(|_| Local {
            scratch: Scratch::new(widest),
            a: vec![0.0; widest.max(batch * PANEL_ROWS)],
            heads: std::array::from_fn(|_| vec![0.0; shape.dim]),
            scores: vec![0.0; context],
        });
        Ok(Engine {
            locals: locals.collect(),
            buffers,
            rope: Rope::new(config, context),
            cache: Elements::new(kv, shape),
            position: 0,
            shape,
            team: Team::new(threads),
            solo: Team::new(1),
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

    /// Forgets all tokens.
    pub fn clear(&mut self) {
        self.position = 0;
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

    /// Reads every weight that a decode step multiplies once, with all threads and without arithmetic:
    /// the time it takes is the least that the weights of a step can take, here and now. Returns the
    /// bytes read.
    pub fn read_weights(&mut self) -> Bytes {
        let (model, threads) = (&self.model, self.team.threads());
        let mut checksums = vec![0u64; threads];
        self.team.split(&mut checksums, 1, &mut self.locals, |members, sums, _| {
            for (member, sum) in members.zip(sums) {
                for matrix in model.multiplied() {
                    let panels = matrix.panels();
                    let own = panels * member / threads..panels * (member + 1) / threads;
                    *sum = sum.wrapping_add(matrix.read(own));
                }
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
        let n = tokens.len();
        let team = if n == 1 { &self.solo } else { &self.team };
        let (embedding, x) = (&self.model.embedding, &mut self.buffers.x);
        let x = &mut x[..self.model.config.hidden.next_multiple_of(PANEL_ROWS) * n];
        for (t, &token) in tokens.iter().enumerate() {
            let row = &mut self.locals[0].a[..embedding.cols()];
            embedding.row(token as usize, row);
            for (panel, part) in row.chunks(PANEL_ROWS).enumerate() {
                x[(panel * n + t) * PANEL_ROWS..][..part.len()].copy_from_slice(part);
            }
        }
        let mut pass = Pass {
            model: &self.model,
            isa: self.isa,
            team: &self.team,
            small: team,
            n,
            position: self.position,
            shape: self.shape,
            rope: &self.rope,
            buffers: &mut self.buffers,
            locals: &mut self.locals,
        };
        for layer in 0..self.model.config.layers {
            let range = layer * self.shape.layer_len()..(layer + 1) * self.shape.layer_len();
            match &mut self.cache {
                Elements::F16(e) => pass.layer(layer, &mut e[range]),
                Elements::F32(e) => pass.layer(layer, &mut e[range]),
            }
        }
        pass.head(wanted);
        self.position += n;
    }
}

/// One batch on its way through the model.
struct Pass<'a> {
    model: &'a Model,
    isa: Isa,
    team: &'a Team,
    /// The team for stages that do little for each token: the caller alone, for one token.
    small: &'a Team,
    n: usize,
    position: usize,
    shape: Shape,
    rope: &'a Rope,
    buffers: &'a mut Buffers,
    locals: &'a mut [Local],
}

impl Pass<'_> {
    fn layer<T: KvElement>(&mut self, index: usize, cache: &mut [T]) {
        let layer = &self.model.layers[index];
        let quantize = self.model.kernel.is_ternary();
        self.normed_inputs(&layer.attn_norm, quantize);
        self.qkv(&[&layer.q, &layer.k, &layer.v]);
        self.store(cache);
        self.attention(cache);
        self.attention_inputs(layer.attn_sub_norm.as_deref(), quantize);
        self.add_product(&layer.o);
        self.normed_inputs(&layer.ffn_norm, quantize);
        self.gate_up(&layer.gate, &layer.up);
        self.ffn_inputs(layer.ffn_sub_norm.as_deref(), quantize);
        self.add_product(&layer.down);
    }

    /// Inputs of the next product: `fill` gets a token's number and writes its vector of `len`
    /// elements; then the norm, if there is one, and quantization, if the kernel wants it.
    fn inputs(
        &mut self,
        len: usize,
        norm: Option<&[f32]>,
        quantize: bool,
        fill: impl Fn(&Sources<'_>, usize, &mut [f32]) + Sync,
    ) {
        let (isa, eps) = (self.isa, self.model.config.norm_eps);
        let format = self.model.kernel.format();
        let tabulate = self.n == 1 || !format.is_exact();
        let Buffers { x, attention, ffn, inputs, .. } = &mut *self.buffers;
        let buffers = Sources { x, attention, ffn };
        self.small.split(&mut inputs[..self.n], 1, self.locals, |range, inputs, local| {
            for (t, input) in range.zip(inputs) {
                match norm {
                    Some(weight) => {
                        fill(&buffers, t, &mut local.a[..len]);
                        vector::rms_norm(isa, &local.a[..len], weight, eps, input.values_mut(len));
                    }
                    None => fill(&buffers, t, input.values_mut(len)),
                }
                if quantize {
                    input.quantize(isa);
                    if tabulate {
                        input.tabulate(isa, format, len);
                    }
                }
            }
        });
    }

    /// Inputs from the residual stream.
    fn normed_inputs(&mut self, norm: &[f32], quantize: bool) {
        let n = self.n;
        self.inputs(norm.len(), Some(norm), quantize, |b, t, out| gather(b.x, n, t, 0..out.len(), out));
    }

    /// Inputs from the result of attention.
    fn attention_inputs(&mut self, norm: Option<&[f32]>, quantize: bool) {
        let (n, dim, padded) = (self.n, self.model.config.head_dim, self.shape.dim);
        self.inputs(self.model.config.heads * dim, norm, quantize, |b, t, out| {
            for (head, out) in out.chunks_exact_mut(dim).enumerate() {
                out.copy_from_slice(&b.attention[(head * n + t) * padded..][..dim]);
            }
        });
    }

    /// Inputs from the gated activation.
    fn ffn_inputs(&mut self, norm: Option<&[f32]>, quantize: bool) {
        let n = self.n;
        self.inputs(self.model.config.ffn, norm, quantize, |b, t, out| {
            gather(b.ffn, n, t, 0..out.len(), out)
        });
    }

    /// Queries, keys and values, in one stage.
    fn qkv(&mut self, matrices: &[&Matrix; 3]) {
        let unit = self.n * PANEL_ROWS;
        let panels: usize = matrices.iter().map(|m| m.panels()).sum();
        let Buffers { qkv, inputs, .. } = &mut *self.buffers;
        let inputs = &inputs[..self.n];
        self.team.split(&mut qkv[..panels * unit], unit, self.locals, |range, mut out, local| {
            let mut first = 0;
            for matrix in matrices {
                let own = first..first + matrix.panels();
                first = own.end;
                let (start, end) = (range.start.max(own.start), range.end.min(own.end));
                if start < end {
                    let (now, later) = out.split_at_mut((end - start) * unit);
                    out = later;
                    matrix.mul(start - own.start..end - own.start, inputs, &mut local.scratch, now);
                }
            }
        });
    }

    /// Start of the queries (0), keys (1) or values (2) in `qkv`.
    fn qkv_start(&self, part: usize) -> usize {
        let config = &self.model.config;
        let q = (config.heads * config.head_dim).next_multiple_of(PANEL_ROWS);
        let kv = (config.kv_heads * config.head_dim).next_multiple_of(PANEL_ROWS);
        [0, q, q + kv][part] * self.n
    }

    /// Rotates the keys and puts keys and values into the cache.
    fn store<T: KvElement>(&mut self, cache: &mut [T]) {
        let (n, position, shape, rope) = (self.n, self.position, self.shape, self.rope);
        let dim = self.model.config.head_dim;
        let keys = &self.buffers.qkv[self.qkv_start(1)..];
        let values = &self.buffers.qkv[self.qkv_start(2)..];
        self.small.split(cache, shape.head_len(), self.locals, |heads, cache, local| {
            for (head, cache) in heads.zip(cache.chunks_exact_mut(shape.head_len())) {
                let (cached_keys, cached_values) = cache.split_at_mut(shape.context * shape.dim);
                let rows = head * dim..(head + 1) * dim;
                for t in 0..n {
                    let at = (position + t) * shape.dim..(position + t + 1) * shape.dim;
                    let mut put = |from: &[f32], to: &mut [T], rotate: bool| {
                        gather(from, n, t, rows.clone(), &mut local.heads[0][..dim]);
                        if rotate {
                            rope.rotate(&mut local.heads[0][..dim], position + t);
                        }
                        for (to, x) in to[at.clone()].iter_mut().zip(&local.heads[0][..dim]) {
                            *to = T::from_f32(*x);
                        }
                    };
                    put(keys, cached_keys, true);
                    put(values, cached_values, false);
                }
            }
        });
    }

    /// Attention of every head over all tokens up to its own.
    fn attention<T: KvElement>(&mut self, cache: &[T]) {
        let (n, position, shape, rope, isa) = (self.n, self.position, self.shape, self.rope, self.isa);
        let config = &self.model.config;
        let (dim, group) = (config.head_dim, config.heads / config.kv_heads);
        let scale = 1.0 / (dim as f32).sqrt();
        let starts = [0, 1, 2].map(|part| self.qkv_start(part));
        let Buffers { qkv, attention, .. } = &mut *self.buffers;
        let [queries, own_keys, own_values] = starts.map(|start| &qkv[start..]);
        let out = &mut attention[..config.heads * n * shape.dim];
        self.team.split(out, n * shape.dim, self.locals, |heads, out, local| {
            for (head, out) in heads.zip(out.chunks_exact_mut(n * shape.dim)) {
                let cache = &cache[head / group * shape.head_len()..][..shape.head_len()];
                let (keys, values) = cache.split_at(shape.context * shape.dim);
                let rows = |head: usize| head * dim..(head + 1) * dim;
                for (t, out) in out.chunks_exact_mut(shape.dim).enumerate() {
                    let before = position + t;
                    let [query, own_key, own_value] = &mut local.heads;
                    gather(queries, n, t, rows(head), &mut query[..dim]);
                    gather(own_keys, n, t, rows(head / group), &mut own_key[..dim]);
                    gather(own_values, n, t, rows(head / group), &mut own_value[..dim]);
                    rope.rotate(&mut query[..dim], before);
                    rope.rotate(&mut own_key[..dim], before);
                    let args = Attend {
                        query,
                        keys: &keys[..before * shape.dim],
                        values: &values[..before * shape.dim],
                        own_key,
                        own_value,
                        scale,
                        scores: &mut local.scores[..before + 1],
                        out,
                    };
                    vector::attend(isa, args);
                }
            }
        });
    }

    /// Adds a product to the residual stream.
    fn add_product(&mut self, matrix: &Matrix) {
        let unit = self.n * PANEL_ROWS;
        let Buffers { x, inputs, .. } = &mut *self.buffers;
        let inputs = &inputs[..self.n];
        self.team.split(&mut x[..matrix.panels() * unit], unit, self.locals, |panels, x, local| {
            for (panels, x) in
                groups(panels, unit, local.a.len()).zip(x.chunks_mut(group_len(unit, local.a.len())))
            {
                let product = &mut local.a[..x.len()];
                matrix.mul(panels, inputs, &mut local.scratch, product);
                x.iter_mut().zip(product).for_each(|(x, y)| *x += *y);
            }
        });
    }

    /// The gated activation, each thread for its own rows, so that it needs nothing of the others.
    fn gate_up(&mut self, gate: &Matrix, up: &Matrix) {
        let (isa, unit) = (self.isa, self.n * PANEL_ROWS);
        let activation = self.model.config.architecture.activation();
        let Buffers { ffn, inputs, .. } = &mut *self.buffers;
        let inputs = &inputs[..self.n];
        self.team.split(&mut ffn[..up.panels() * unit], unit, self.locals, |panels, out, local| {
            for (panels, out) in
                groups(panels, unit, local.a.len()).zip(out.chunks_mut(group_len(unit, local.a.len())))
            {
                let gated = &mut local.a[..out.len()];
                gate.mul(panels.clone(), inputs, &mut local.scratch, gated);
                up.mul(panels, inputs, &mut local.scratch, out);
                match activation {
                    Activation::Silu => vector::silu_mul(isa, gated, out),
                    Activation::Relu2 => vector::relu2_mul(isa, gated, out),
                }
            }
        });
    }

    /// Logits of the tokens `wanted`, from unquantized inputs.
    fn head(&mut self, wanted: Range<usize>) {
        if wanted.is_empty() {
            return;
        }
        self.normed_inputs(&self.model.output_norm, false);
        let (head, unit) = (self.model.head(), wanted.len() * PANEL_ROWS);
        let Buffers { logits, inputs, .. } = &mut *self.buffers;
        let inputs = &inputs[wanted];
        self.team.split(&mut logits[..head.panels() * unit], unit, self.locals, |panels, out, local| {
            head.mul(panels, inputs, &mut local.scratch, out);
        });
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

/// The buffers that inputs are taken from.
struct Sources<'a> {
    x: &'a [f32],
    attention: &'a [f32],
    ffn: &'a [f32],
}
