"""The same shapes as kernel_bench.rs in PyTorch: python pytorch_kernels.py [threads]"""

import sys
import time

import torch
import torch.nn.functional as F

threads = int(sys.argv[1]) if len(sys.argv) > 1 else 2
torch.set_num_threads(threads)
# On one thread its own clock, which other work on the machine does not lengthen.
now = time.thread_time if threads == 1 else time.perf_counter


def seconds(f):
    f()
    times, begin = [], time.perf_counter()
    while len(times) < 7 or time.perf_counter() - begin < 0.25:
        start = now()
        f()
        times.append(now() - start)
    return min(times)


def report(name, f, flops=None):
    t = seconds(f)
    rate = f"{flops / t / 1e9:8.1f} GFLOP/s" if flops else ""
    print(f"{name:<44} {t * 1e3:9.3f} ms {rate}", flush=True)


with torch.no_grad():
    for m, n, k in [(1024, 768, 768), (1024, 768, 3072), (1024, 3072, 768), (2048, 384, 1536), (2048, 1536, 384),
                    (2048, 384, 384), (768, 768, 1024), (3072, 768, 1024), (8, 2, 768), (8, 768, 768), (1, 768, 768),
                    (32, 768, 768), (1024, 9, 768)]:
        a, at = torch.randn(m, k), torch.randn(k, m)
        b, bt = torch.randn(n, k), torch.randn(k, n)
        c = torch.empty(m, n)
        for layout, x, y in (("Nt", a, b.t()), ("Nn", a, bt), ("Tn", at.t(), bt)):
            report(f"gemm {layout} {m}x{n}x{k}", lambda: torch.mm(x, y, out=c), 2 * m * n * k)
    x, w, bias = torch.randn(1024, 768), torch.randn(3072, 768), torch.randn(3072)
    report("gemm Nt 1024x3072x768 + bias + gelu", lambda: F.gelu(F.linear(x, w, bias)), 2 * 1024 * 3072 * 768)

def picture(batch, channels, side):
    return torch.randn(batch, channels, side, side).contiguous(memory_format=torch.channels_last)


for name, batch, side, inputs, outputs, kernel, stride, groups in (
        ("stem 3>64@224 7x7/2", 8, 224, 3, 64, 7, 2, 1), ("64@56 3x3", 8, 56, 64, 64, 3, 1, 1),
        ("128@28 3x3", 8, 28, 128, 128, 3, 1, 1), ("256@14 3x3", 8, 14, 256, 256, 3, 1, 1),
        ("512@7 3x3", 8, 7, 512, 512, 3, 1, 1), ("128@56 3x3/2", 8, 56, 128, 128, 3, 2, 1),
        ("256@28 3x3/2", 8, 28, 256, 256, 3, 2, 1), ("64>256@56 1x1", 8, 56, 64, 256, 1, 1, 1),
        ("256>64@56 1x1", 8, 56, 256, 64, 1, 1, 1), ("512>128@28 1x1", 8, 28, 512, 128, 1, 1, 1),
        ("256>1024@14 1x1", 8, 14, 256, 1024, 1, 1, 1), ("2048>512@7 1x1", 8, 7, 2048, 512, 1, 1, 1),
        ("256>512@56 1x1/2", 8, 56, 256, 512, 1, 2, 1), ("3>64@224 3x3", 4, 224, 3, 64, 3, 1, 1),
        ("64@224 3x3", 2, 224, 64, 64, 3, 1, 1), ("256@56 3x3", 4, 56, 256, 256, 3, 1, 1),
        ("512@28 3x3", 4, 28, 512, 512, 3, 1, 1), ("24>144@56 1x1", 16, 56, 24, 144, 1, 1, 1),
        ("32@112 3x3 depthwise", 16, 112, 32, 32, 3, 1, 32),
        ("96@112 3x3/2 depthwise", 16, 112, 96, 96, 3, 2, 96),
        ("144@56 3x3 depthwise", 16, 56, 144, 144, 3, 1, 144),
        ("384@14 3x3 depthwise", 16, 14, 384, 384, 3, 1, 384)):
    x = picture(batch, inputs, side)
    weight = torch.randn(outputs, inputs // groups, kernel, kernel).contiguous(memory_format=torch.channels_last)
    padding = kernel // 2
    with torch.inference_mode():
        y = F.conv2d(x, weight, None, stride, padding, 1, groups)
        flops = 2 * y.numel() * weight[0].numel()
        report(f"conv {name}", lambda: F.conv2d(x, weight, None, stride, padding, 1, groups), flops)
        for kind, mask in (("dX", [True, False, False]), ("dW", [False, True, False])):
            report(f"conv {name}, {kind}", lambda: torch.ops.aten.convolution_backward(
                y, x, weight, None, [stride] * 2, [padding] * 2, [1, 1], False, [0, 0], groups, mask), flops)

for batch, side, channels, with_residual in ((8, 56, 64, False), (8, 56, 256, True), (8, 14, 1024, True),
                                             (16, 56, 24, False)):
    x = picture(batch, channels, side).requires_grad_()
    residual = picture(batch, channels, side).requires_grad_() if with_residual else None
    weight, bias = torch.randn(channels, requires_grad=True), torch.randn(channels, requires_grad=True)
    mean, variance = torch.zeros(channels), torch.ones(channels)

    def normalize():
        y = F.batch_norm(x, mean, variance, weight, bias, True)
        return F.relu_(y + residual if with_residual else y)

    name = f"batch norm {batch * side * side}x{channels} + relu" + (" + residual" if with_residual else "")
    report(name, normalize)
    y, dy = normalize(), picture(batch, channels, side)
    inputs = [x, weight, bias] + ([residual] if with_residual else [])
    report(f"{name}, backward", lambda: torch.autograd.grad(y, inputs, dy, retain_graph=True))
x = picture(8, 64, 112).requires_grad_()
report("max pool 64@112 3x3/2", lambda: F.max_pool2d(x, 3, 2, 1))
y, dy = F.max_pool2d(x, 3, 2, 1), picture(8, 64, 56)
report("max pool 64@112 3x3/2, backward", lambda: torch.autograd.grad(y, x, dy, retain_graph=True))

for name, rows, hidden, heads, parameters in (("BERT-base 8x128", 1024, 768, 12, 109_000_000),
                                              ("MiniLM 16x128", 2048, 384, 12, 22_700_000)):
    x, y = torch.randn(rows, hidden, requires_grad=True), torch.randn(rows, hidden)
    gamma, beta = torch.ones(hidden, requires_grad=True), torch.zeros(hidden, requires_grad=True)
    with torch.no_grad():
        report(f"add ({name})", lambda: x + y)
        report(f"dropout ({name})", lambda: F.dropout(x, 0.1))
        report(f"layer norm + residual ({name})", lambda: F.layer_norm(x + y, (hidden,), gamma, beta))
        report(f"layer norm + residual + dropout ({name})",
               lambda: F.layer_norm(F.dropout(x, 0.1) + y, (hidden,), gamma, beta))
    out = F.layer_norm(F.dropout(x, 0.1) + y, (hidden,), gamma, beta)
    report(f"layer norm backward + dropout ({name})",
           lambda: torch.autograd.grad(out, (x, gamma, beta), y, retain_graph=True))
    wide = torch.randn(rows, 4 * hidden)
    bias = torch.zeros(4 * hidden, requires_grad=True)
    dy = torch.randn(rows, 4 * hidden)
    with torch.no_grad():
        report(f"gelu ({name})", lambda: F.gelu(wide))
    out = F.gelu(wide + bias)
    report(f"gelu backward + bias ({name})", lambda: torch.autograd.grad(out, bias, dy, retain_graph=True))
    with torch.no_grad():
        report(f"bias gradient ({name})", lambda: x.sum(0))
    q, k, v = (torch.randn(rows // 128, heads, 128, hidden // heads, requires_grad=True) for _ in range(3))
    flops = 4 * rows * 128 * hidden
    for kind, p in (("attention", 0.0), ("attention + dropout", 0.1)):
        with torch.no_grad():
            report(f"{kind} ({name})", lambda: F.scaled_dot_product_attention(q, k, v, dropout_p=p), flops)
        out = F.scaled_dot_product_attention(q, k, v, dropout_p=p)
        grad = torch.randn_like(out)
        report(f"{kind}, backward ({name})",
               lambda: torch.autograd.grad(out, (q, k, v), grad, retain_graph=True), 2.5 * flops)
    w = torch.nn.Parameter(torch.randn(parameters))
    w.grad = torch.randn(parameters)
    optimizer = torch.optim.AdamW([w], lr=1e-5, fused=True)
    report(f"adamw ({name})", optimizer.step)
    report(f"sum of squares ({name})", lambda: w.grad.norm())
