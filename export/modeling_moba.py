"""The network of train_moba in plain PyTorch, for Hugging Face transformers (trust_remote_code=True). export/to_hf.py puts this file beside the weights.

    S<w>      sliding window of w keys, rotary positions            M<b>:<k>  mixture of block attention: blocks of b keys, k of them a query
    D         causal attention over everything, no positions

Attention is computed as masked attention, a chunk of queries at a time: it reads like the definition, needs no kernel, and costs what dense
attention costs. config.eval_attention = "dense" lets M layers read every block with the same weights.

The key-value cache holds keys before the key convolution (the convolution of one new key needs its predecessors) and, in S layers, after rotation.
Rows must not be padded on the left: blocks are counted from the first token. Padding on the right is harmless, since nothing looks ahead."""
import torch
import torch.nn.functional as F
from torch import nn
from transformers import DynamicCache, GenerationMixin, PreTrainedModel, PretrainedConfig
from transformers.modeling_outputs import CausalLMOutputWithPast

QUERY_CHUNK = 512          # queries whose masks exist at a time


class MobaConfig(PretrainedConfig):
    model_type = "moba"
    keys_to_ignore_at_inference = ["past_key_values"]

    def __init__(self, vocab_size=257, hidden_size=128, num_hidden_layers=4, num_attention_heads=2, intermediate_size=384,
                 pattern="S256,M128:8", kconv=3, theta=10000.0, norm_eps=1e-6, max_position_embeddings=8192, eval_attention="sparse",
                 tie_word_embeddings=True, use_cache=True, **kwargs):
        self.vocab_size = vocab_size
        self.hidden_size = hidden_size
        self.num_hidden_layers = num_hidden_layers
        self.num_attention_heads = num_attention_heads
        self.intermediate_size = intermediate_size
        self.pattern = pattern
        self.kconv = kconv
        self.theta = theta
        self.norm_eps = norm_eps
        self.max_position_embeddings = max_position_embeddings
        self.eval_attention = eval_attention
        self.use_cache = use_cache
        super().__init__(tie_word_embeddings=tie_word_embeddings, **kwargs)

    def layer_kinds(self):
        """[("S", [window]), ("M", [block, topk]), ("D", [])], the pattern repeated over the layers"""
        cycle = [(item[0], [int(number) for number in item[1:].split(":")] if item[1:] else []) for item in self.pattern.split(",")]
        return [cycle[layer % len(cycle)] for layer in range(self.num_hidden_layers)]


class MobaNorm(nn.Module):
    def __init__(self, width, eps):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps

    def forward(self, x):
        wide = x.float()
        return (wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + self.eps) * self.weight.float()).to(x.dtype)


def rotate(x, first, theta):
    """Turns the pairs (i, i + D/2) of x (B, H, T, D) by position * theta^(-2i/D); the positions are first, first + 1, ..."""
    half = x.shape[-1] // 2
    position = torch.arange(first, first + x.shape[-2], dtype=torch.float64, device=x.device)
    angle = torch.outer(position, theta ** (-torch.arange(half, dtype=torch.float64, device=x.device) / half))
    cos, sin = angle.cos().float(), angle.sin().float()
    a, b = x.float().split(half, dim=-1)
    return torch.cat((a * cos - b * sin, b * cos + a * sin), dim=-1).to(x.dtype)


class MobaAttention(nn.Module):
    def __init__(self, config, layer):
        super().__init__()
        width = config.hidden_size
        self.layer, self.heads, self.theta = layer, config.num_attention_heads, config.theta
        self.kind, self.numbers = config.layer_kinds()[layer]
        self.dense = config.eval_attention == "dense"
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.out = nn.Linear(width, width, bias=False)
        self.conv = nn.Conv1d(width, width, config.kconv, groups=width, bias=False) if self.kind == "M" and config.kconv else None

    def convolve(self, k):
        """k + silu(depthwise causal convolution of k), k: (B, H, U, D)"""
        B, H, U, D = k.shape
        wide = k.float()
        lanes = F.pad(wide.transpose(-1, -2).reshape(B, H * D, U), (self.conv.kernel_size[0] - 1, 0))
        z = F.conv1d(lanes, self.conv.weight.float(), groups=H * D).view(B, H, D, U).transpose(-1, -2)
        return (wide + F.silu(z)).to(k.dtype)

    def routed(self, q, centroids, t, keys):
        """Which keys the queries q (B, H, Q, D) at positions t may read: those of the own block and of the k - 1 best past ones; (B, H, Q, keys).
        Among equal scores the lower block wins."""
        block, topk = self.numbers
        blocks, own = -(-keys // block), t // block
        centroids = centroids[..., :blocks, :]                                                      # later blocks are not among the past ones
        past = torch.arange(centroids.shape[-2], device=q.device) < own[:, None]                    # (Q, n): whole blocks before the own one
        scores = (q.float() @ centroids.transpose(-1, -2)).nan_to_num(nan=-torch.inf).masked_fill(~past, -torch.inf)
        best = scores.sort(dim=-1, descending=True, stable=True).indices[..., :topk - 1]
        reads = torch.zeros(*q.shape[:-1], blocks, dtype=torch.bool, device=q.device)
        reads.scatter_(-1, best, past.expand_as(scores).gather(-1, best))
        reads |= torch.arange(blocks, device=q.device) == own[:, None]
        return reads.repeat_interleave(block, dim=-1)[..., :keys]

    def attend(self, q, k, v, first):
        """q: (B, H, T, D) at positions first, first + 1, ...; k, v: (B, H, first + T, D)"""
        sparse = self.kind == "M" and not self.dense
        if sparse:
            block = self.numbers[0]
            whole = k.shape[-2] // block
            centroids = k[..., :whole * block, :].float().unflatten(-2, (whole, block)).mean(-2)
        parts = []
        for start in range(0, q.shape[-2], QUERY_CHUNK):
            part = q[..., start:start + QUERY_CHUNK, :]
            t = torch.arange(first + start, first + start + part.shape[-2], device=q.device)
            last = first + start + part.shape[-2]
            begin = max(0, first + start - self.numbers[0] + 1) if self.kind == "S" else 0
            u = torch.arange(begin, last, device=q.device)
            mask = u <= t[:, None]
            if self.kind == "S":
                mask = mask & (u > t[:, None] - self.numbers[0])
            if sparse:
                mask = mask & self.routed(part, centroids, t, last)
            parts.append(F.scaled_dot_product_attention(part, k[..., begin:last, :], v[..., begin:last, :], attn_mask=mask))
        return torch.cat(parts, dim=-2)

    def forward(self, x, cache):
        B, T, C = x.shape
        first = cache.get_seq_length(self.layer) if cache is not None else 0
        q, k, v = (part.view(B, T, self.heads, C // self.heads).transpose(1, 2) for part in self.qkv(x).chunk(3, dim=-1))
        if self.kind == "S":
            q, k = rotate(q, first, self.theta), rotate(k, first, self.theta)
        if cache is not None:
            k, v = cache.update(k, v, self.layer)
        if self.conv is not None:
            k = self.convolve(k)
        return self.out(self.attend(q, k, v, first).transpose(1, 2).reshape(B, T, C))


class MobaMLP(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.gate_up = nn.Linear(config.hidden_size, 2 * config.intermediate_size, bias=False)
        self.down = nn.Linear(config.intermediate_size, config.hidden_size, bias=False)

    def forward(self, x):
        gate, up = self.gate_up(x).chunk(2, dim=-1)
        return self.down((F.silu(gate.float()) * up.float()).to(x.dtype))


class MobaLayer(nn.Module):
    def __init__(self, config, layer):
        super().__init__()
        self.norm1 = MobaNorm(config.hidden_size, config.norm_eps)
        self.attn = MobaAttention(config, layer)
        self.norm2 = MobaNorm(config.hidden_size, config.norm_eps)
        self.mlp = MobaMLP(config)

    def forward(self, x, cache):
        x = x + self.attn(self.norm1(x), cache)
        return x + self.mlp(self.norm2(x))


class MobaModel(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.embed = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(MobaLayer(config, layer) for layer in range(config.num_hidden_layers))
        self.norm = MobaNorm(config.hidden_size, config.norm_eps)

    def forward(self, x, cache):
        for layer in self.layers:
            x = layer(x, cache)
        return self.norm(x)


class MobaForCausalLM(PreTrainedModel, GenerationMixin):
    config_class = MobaConfig
    base_model_prefix = "model"
    _tied_weights_keys = {"lm_head.weight": "model.embed.weight"}
    _keep_in_fp32_modules_strict = ["norm1", "norm2", "norm", "conv"]      # as the program keeps them beside bf16 matrices

    def __init__(self, config):
        super().__init__(config)
        self.model = MobaModel(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()

    def get_input_embeddings(self):
        return self.model.embed

    def set_input_embeddings(self, embedding):
        self.model.embed = embedding

    def get_output_embeddings(self):
        return self.lm_head

    def set_output_embeddings(self, head):
        self.lm_head = head

    def forward(self, input_ids=None, attention_mask=None, past_key_values=None, inputs_embeds=None, labels=None, use_cache=None,
                logits_to_keep=0, return_dict=True, **kwargs):
        if attention_mask is not None and attention_mask.dim() == 2 and not bool(attention_mask[:, 0].all()):
            raise ValueError("rows padded on the left are not supported: MoBA counts blocks from the first token; pad on the right, or batch_size 1")
        x = self.model.embed(input_ids) if inputs_embeds is None else inputs_embeds
        use_cache = self.config.use_cache and not self.training if use_cache is None else use_cache
        if use_cache and past_key_values is None:
            past_key_values = DynamicCache()
        hidden = self.model(x, past_key_values if use_cache else None)
        keep = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) and logits_to_keep else slice(None)
        logits = self.lm_head(hidden[:, keep] if isinstance(logits_to_keep, int) else hidden[:, logits_to_keep])
        loss = None
        if labels is not None:
            loss = F.cross_entropy(logits[:, :-1].float().flatten(0, 1), labels[:, 1:].flatten(), ignore_index=-100)
        if not return_dict:
            return (loss, logits) if loss is not None else (logits,)
        return CausalLMOutputWithPast(loss=loss, logits=logits, past_key_values=past_key_values if use_cache else None)
