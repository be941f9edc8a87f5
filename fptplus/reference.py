"""FPT and FPT+ in plain code, to be read alongside the paper (FPT+, Sec. III; FPT, arXiv 2403.07576).

It needs PyTorch alone, any release since 2.0. It computes in fp32, one operation after another, with full score
matrices, and leaves backward passes to autograd. It follows the paper and what is known of the official code, and
shares no code with the rest of `fptplus`: tests hold both to the same features, logits, losses and gradients. From top
to bottom:

    PlainSelfAttention, PlainBlock    Sec. III-A, Eq. 1-3    a transformer layer
    plain_features                    Sec. III-B, E and F    the frozen large pre-trained model (LPM), once per image
    PlainFusion                       Sec. III-D, Eq. 7-8    prompts that summarise the LPM's important tokens
    PlainFPT                          Sec. III-C, Eq. 5-6    the side network, which reads them
    plain_step                        Sec. IV-B1             one training step

    paper                 here
    D, D/k                lpm_dim, dim             widths of the LPM and of the side network
    L_S                   num_layers               side layers; they read the L_S top layers of the LPM
    I_h, I_l              lpm_images, images       one image, in the high and in the low resolution
    z_M, z_S              tokens                   (B, N, D) of the LPM, (B, T, D/k) of the side network
    K_M, V_M              keys, values             (layers, B, heads, n, head_dim), of the important tokens
    p, f_out              prompts, out_proj        (layers, 1, P, width), and the projection that all layers share
    m%                    token_ratio              share of the tokens that count as important

Our training step is timed against this code, and the paper's memory is emulated with it. So it matters here which
results have a name: a named result lives until its function returns.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class PlainSelfAttention(nn.Module):
    """MSA(z) = Attn(f_Q(z), f_K(z), f_V(z)) = softmax(Q Kᵀ / √head_dim) V of each head (Eq. 3), then a projection."""

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.query, self.key, self.value, self.out = (nn.Linear(dim, dim) for _ in range(4))

    def forward(self, tokens: Tensor) -> Tensor:
        """Map tokens (B, T, dim) to (B, T, dim)."""
        return self.out(self._attend(tokens))

    def _attend(self, tokens: Tensor) -> Tensor:
        queries, keys, values = (self._heads(project(tokens)) for project in (self.query, self.key, self.value))
        scores = torch.matmul(queries, keys.transpose(-1, -2)) / math.sqrt(queries.shape[-1])
        context = torch.matmul(scores.softmax(dim=-1), values)
        return context.permute(0, 2, 1, 3).reshape(tokens.shape)

    def _heads(self, x: Tensor) -> Tensor:
        """Reshape (B, T, dim) to (B, heads, T, head_dim)."""
        return x.view(*x.shape[:2], self.num_heads, -1).permute(0, 2, 1, 3)


class PlainBlock(nn.Module):
    """A transformer layer, θ. z' = MSA(z) + z (Eq. 1), then MLP(z') + z' (Eq. 2), each after a LayerNorm."""

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(dim, eps=1e-12), nn.LayerNorm(dim, eps=1e-12)
        self.attention = PlainSelfAttention(dim, num_heads)
        self.intermediate, self.output = nn.Linear(dim, 4 * dim), nn.Linear(4 * dim, dim)

    def forward(self, tokens: Tensor) -> Tensor:
        """Map tokens (B, T, dim) to (B, T, dim)."""
        attended = self.attention(self.norm1(tokens))
        tokens = attended + tokens  # Eq. 1
        return self.output(F.gelu(self.intermediate(self.norm2(tokens)))) + tokens  # Eq. 2


@torch.no_grad()
def plain_features(lpm: nn.Module, lpm_images: Tensor, tapped_layers: tuple[int, ...], token_ratio: float) -> Tensor:
    """Compute keys and values of the important tokens, once per image, to be stored (Sec. III-F, preloading).

    Args:
        lpm: a frozen timm VisionTransformer.
        lpm_images: (B, 3, H, W), at the high resolution.
        tapped_layers: LPM layers to read, counted from 0: l' = L_M - L_S + l for each side layer l.
        token_ratio: share of the tokens to keep in each layer and head.

    Returns:
        (2, layers, B, heads, n, head_dim): keys, then values.
    """
    tokens, taken = lpm._pos_embed(lpm.patch_embed(lpm_images)), []
    for index, block in enumerate(lpm.blocks):  # Eq. 4: each layer's z_M comes from the layer below
        normed, attention = block.norm1(tokens), block.attn
        qkv = attention.qkv(normed).view(*normed.shape[:2], 3, attention.num_heads, -1)
        queries, keys, values = qkv.permute(2, 0, 3, 1, 4)
        probabilities = (torch.matmul(queries, keys.transpose(-1, -2)) * queries.shape[-1] ** -0.5).softmax(dim=-1)
        if index in tapped_layers:
            taken.append(important_tokens(probabilities, keys, values, token_ratio))
        context = torch.matmul(probabilities, values).transpose(1, 2).reshape(tokens.shape)
        tokens = tokens + attention.proj(context)
        tokens = tokens + block.mlp(block.norm2(tokens))
    return torch.stack(taken, dim=1)


def important_tokens(probabilities: Tensor, keys: Tensor, values: Tensor, token_ratio: float) -> Tensor:
    """Return keys and values (2, B, heads, n, head_dim) of the tokens that the others attend to most (Sec. III-E).

    A token's importance is its mean attention score: the mean of its column of `probabilities` (B, heads, N, N)
    over all N queries. Each head chooses for itself; n = int(N · token_ratio).
    """
    important = probabilities.mean(dim=-2).topk(int(keys.shape[2] * token_ratio), dim=-1).indices
    important = important.unsqueeze(-1).expand(-1, -1, -1, keys.shape[-1])
    return torch.stack([keys.gather(2, important), values.gather(2, important)])


class PlainFusion(nn.Module):
    """Fine-grained prompts and the fusion modules of all layers: f_out(CA(p, z_M)) + p (Eq. 7).

    There are two deviations from the letter of Eq. 7, both as in the official code: p is as wide as the LPM and the sum
    as wide as the side network, so FPT+ adds p before f_out; and dropout is applied to the fused prompts. FPT's prompts
    are as narrow as the side network. They are projected up into queries instead of being normalised, and are added
    after f_out.
    """

    def __init__(self, variant: str, num_layers: int, num_prompts: int, lpm_dim: int, num_heads: int, dim: int) -> None:
        super().__init__()
        self.projects_up, self.num_heads = variant == "fpt", num_heads
        width = dim if self.projects_up else lpm_dim
        self.prompts = nn.Parameter(torch.randn(num_layers, 1, num_prompts, width) * 1e-6)
        if self.projects_up:
            self.prompt_proj = nn.Linear(dim, lpm_dim)
        else:
            self.layer_norm = nn.LayerNorm(lpm_dim)
        self.out_proj = nn.Linear(lpm_dim, dim)
        self.dropout = nn.Dropout(0.5)

    def one_layer(self, layer: int, keys: Tensor, values: Tensor) -> Tensor:
        """Return the fused prompts (B, P, dim) of one layer from its keys and values (B, heads, n, head_dim)."""
        return self._fuse(self.prompts[layer].repeat(len(keys), 1, 1), keys, values)

    def all_layers(self, keys: Tensor, values: Tensor) -> Tensor:
        """Return all layers' fused prompts (layers, B, P, dim) from keys and values (layers, B, heads, n, head_dim)."""
        return self._fuse(self.prompts.expand(-1, keys.shape[1], -1, -1), keys, values)

    def _fuse(self, prompts: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        # CA(p, z_M) = Attn(LN(p), K_M, V_M), Eq. 8
        queries = self.prompt_proj(prompts) if self.projects_up else self.layer_norm(prompts)
        queries = queries.unflatten(-1, (self.num_heads, -1)).transpose(-2, -3)
        scores = torch.matmul(queries, keys.transpose(-1, -2)) / math.sqrt(queries.shape[-1])
        context = torch.matmul(scores.softmax(dim=-1), values).transpose(-2, -3).flatten(-2)
        if self.projects_up:
            return self.dropout(self.out_proj(context) + prompts)  # Eq. 7, FPT
        context = context + prompts
        return self.dropout(self.out_proj(context))  # Eq. 7, FPT+


class PlainFPT(nn.Module):
    """Everything FPT or FPT+ trains: the side network and the fusion modules that feed it.

    Args:
        variant: `fpt` or `fptplus`.
        num_layers: L_S, number of layers of the side network; each reads one layer of the LPM.
        num_prompts: P, number of fine-grained prompts per layer.
        lpm_dim, num_heads: width and heads of the LPM; the side network has as many heads.
        dim: width of the side network, lpm_dim / k.
        res, patch_size: height and width of the side network's images and patches, in pixels.
        num_classes: outputs of the head.
        fuses_at_once: whether to fuse the prompts of all layers in one product before the side network, as the
            official code does, instead of each before its layer; the numbers are the same, the memory is not.
    """

    def __init__(
        self,
        *,
        variant: str,
        num_layers: int,
        num_prompts: int,
        lpm_dim: int,
        num_heads: int,
        dim: int,
        res: int,
        patch_size: int,
        num_classes: int,
        fuses_at_once: bool = False,
    ) -> None:
        super().__init__()
        self.fuses_at_once = fuses_at_once
        self.projection = nn.Conv2d(3, dim, kernel_size=patch_size, stride=patch_size)
        self.cls_token = nn.Parameter(torch.randn(1, 1, dim) * 0.02)
        self.position_embeddings = nn.Parameter(torch.randn(1, (res // patch_size) ** 2 + 1, dim) * 0.02)
        self.layers = nn.ModuleList(PlainBlock(dim, num_heads) for _ in range(num_layers))
        self.layernorm = nn.LayerNorm(dim, eps=1e-12)
        self.classifier = nn.Linear(dim, num_classes)
        self.fusion = PlainFusion(variant, num_layers, num_prompts, lpm_dim, num_heads, dim)

    def forward(self, images: Tensor, features: Tensor | tuple[Tensor, Tensor]) -> Tensor:
        """Return logits (B, classes).

        Args:
            images: (B, 3, res, res), at the low resolution (Sec. III-C, asymmetric input).
            features: keys and values, each (layers, B, heads, n, head_dim), of the same images at the high resolution.
        """
        keys, values = features
        fused = self.fusion.all_layers(keys, values) if self.fuses_at_once else None
        embedded = self._embed(images)
        tokens, num_tokens = embedded, embedded.shape[1]
        for index, layer in enumerate(self.layers):
            prompts = fused[index] if self.fuses_at_once else self.fusion.one_layer(index, keys[index], values[index])
            # F(z_S, z_M) = [z_S, fused prompts] (Eq. 7), and θ of it (Eq. 6); then the prompts are removed again
            tokens = layer(torch.cat([tokens, prompts], dim=1))[:, :num_tokens]
        return self.classifier(self.layernorm(tokens)[:, 0])

    def _embed(self, images: Tensor) -> Tensor:
        """Return z_0 (B, T, dim): class token and patches, with position embeddings (Sec. III-A)."""
        patches = self.projection(images).flatten(2).transpose(1, 2)
        patches = torch.cat([self.cls_token.expand(len(patches), -1, -1), patches], dim=1)
        return patches + self.position_embeddings


def plain_step(model: PlainFPT, optimizer: torch.optim.Optimizer, images: Tensor, features: Tensor, targets: Tensor):
    """Take one training step (Sec. IV-B1; official training loop), and return the loss as a detached scalar."""
    loss = F.cross_entropy(model(images, features), targets)
    optimizer.zero_grad()
    loss.backward()
    nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    return loss.detach()
