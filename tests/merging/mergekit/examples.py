"""Recipes as mergekit's guide and its folder of examples have them, and what of each is not as mergekit merges it."""

# In the forms of mergekit's examples; BASE, MATH and CODE stand for folders.
EXAMPLES = {
    "linear": """
models:
  - model: MATH
    parameters:
      weight: 1.0
  - model: CODE
    parameters:
      weight: 0.3
merge_method: linear
dtype: float32
""",
    "linear-of-the-base-too": """
models: [{model: BASE, parameters: {weight: 0.5}}, {model: MATH, parameters: {weight: 0.25}}]
base_model: BASE
merge_method: linear
parameters: {normalize: false}
""",
    "task_arithmetic": """
merge_method: task_arithmetic
base_model: BASE
models:
  - model: BASE
  - model: MATH
    parameters: {weight: 0.7}
  - model: CODE
    parameters: {weight: -0.4}
parameters: {normalize: false, lambda: 0.9, int8_mask: true}
out_dtype: bfloat16
dtype: float32
""",
    "ties": """
models:
  - model: BASE
  - model: MATH
    parameters:
      density: [1, 0.5]  # a gradient over the layers
      weight: 1.0
  - model: CODE
    parameters:
      density: 0.25
      weight: [0, 0.6]
merge_method: ties
base_model: BASE
parameters:
  normalize: true
  int8_mask: true
dtype: float32
""",
    "filters": """
models:
  - model: MATH
    parameters:
      weight:
        - filter: mlp
          value: [0.2, 0.8]
        - filter: self_attn
          value: 0.1
        - value: 0.5
  - model: CODE
    parameters: {weight: 0.5}
merge_method: task_arithmetic
base_model: BASE
""",
    "slerp": """
models: [{model: BASE}, {model: MATH}]
merge_method: slerp
base_model: BASE
parameters:
  t:
    - filter: self_attn
      value: [0, 0.5]
    - filter: mlp
      value: [1, 0.3]
    - value: 0.6
dtype: float32
""",
    "slerp-of-two-models": """
models: [{model: MATH}, {model: CODE}]
merge_method: slerp
base_model: MATH
parameters: {t: 0.25}
""",
    "nuslerp": """
models:
  - model: MATH
    parameters: {weight: 0.5}
  - model: CODE
    parameters: {weight: 1.5}
merge_method: nuslerp
parameters: {nuslerp_flatten: true}
dtype: float32
""",
    "nuslerp-of-changes-by-rows": """
models:
  - model: MATH
    parameters: {weight: 0.3}
  - model: CODE
    parameters: {weight: 0.6}
merge_method: nuslerp
base_model: BASE
parameters: {nuslerp_flatten: false}
dtype: float32
""",
    "nuslerp-of-changes-by-columns": """
models:
  - model: MATH
    parameters: {weight: 0.3}
  - model: CODE
    parameters: {weight: 0.6}
merge_method: nuslerp
base_model: BASE
parameters: {nuslerp_flatten: false, nuslerp_row_wise: true}
dtype: float32
""",
    "multislerp": """
models:
  - model: MATH
    parameters: {weight: 0.2}
  - model: CODE
    parameters: {weight: 0.6}
merge_method: multislerp
parameters: {normalize_weights: true, eps: 1.0e-8}
dtype: float32
""",
    "multislerp-of-changes": """
models:
  - model: MATH
    parameters: {weight: 0.7}
  - model: CODE
    parameters: {weight: 0.4}
  - model: TRANSLATION
    parameters: {weight: 0.3}
merge_method: multislerp
base_model: BASE
parameters: {normalize_weights: false}
dtype: float32
""",
    "nearswap": """
models: [{model: BASE}, {model: MATH}]
merge_method: nearswap
base_model: BASE
parameters: {t: 0.05}
dtype: float32
""",
    "karcher": """
models: [{model: BASE}, {model: MATH}, {model: CODE}]
merge_method: karcher
parameters: {max_iter: 10, tol: 1.0e-5}
dtype: float32
""",
    "model_stock": """
models: [{model: MATH}, {model: CODE}, {model: TRANSLATION}]
merge_method: model_stock
base_model: BASE
dtype: float32
""",
    "model_stock-by-neurons": """
models: [{model: MATH}, {model: CODE}, {model: TRANSLATION}]
merge_method: model_stock
base_model: BASE
parameters: {filter_wise: true}
dtype: float32
""",
    "breadcrumbs": """
models:
  - model: MATH
    parameters: {weight: 0.5, density: 0.9, gamma: 0.1}
  - model: CODE
    parameters: {weight: 0.7, density: 0.5, gamma: 0.05}
merge_method: breadcrumbs
base_model: BASE
parameters: {normalize: true, int8_mask: true, lambda: 0.9}
dtype: float32
""",
    "breadcrumbs_ties": """
models:
  - model: MATH
    parameters: {weight: 0.5, density: 0.9, gamma: 0.2}
  - model: CODE
    parameters: {weight: 0.7, density: 0.5, gamma: 0.01}
  - model: TRANSLATION
    parameters: {weight: 0.6, density: 1.0, gamma: 0.01}
merge_method: breadcrumbs_ties
base_model: BASE
dtype: float32
""",
    "sce": """
models: [{model: MATH}, {model: CODE}, {model: TRANSLATION}]
merge_method: sce
base_model: BASE
parameters: {select_topk: 0.3}
dtype: float32
""",
    "sce-of-all": """
models: [{model: MATH}, {model: CODE}, {model: TRANSLATION}]
merge_method: sce
base_model: BASE
parameters: {int8_mask: true}
dtype: float32
""",
    "ram": """
models: [{model: MATH}, {model: CODE}, {model: TRANSLATION}]
merge_method: ram
base_model: BASE
parameters: {epsilon: 0.05}
dtype: float32
""",
    "dare_linear": """
models:
  - model: MATH
    parameters: {weight: 0.6, density: 0.53}
  - model: CODE
    parameters: {weight: 0.4, density: 0.53}
merge_method: dare_linear
base_model: BASE
parameters: {rescale: true, normalize: false, lambda: 0.9}
dtype: float32
""",
    "dare_ties": """
models:
  - model: BASE
  - model: MATH
    parameters: {weight: 0.6, density: 0.53}
  - model: CODE
    parameters: {weight: 0.4, density: 0.53}
merge_method: dare_ties
base_model: BASE
parameters: {int8_mask: true}
dtype: bfloat16
""",
    "della": """
models:
  - model: MATH
    parameters: {weight: 0.6, density: 0.5, epsilon: 0.15}
  - model: CODE
    parameters: {weight: 0.4, density: [0.4, 0.7], epsilon: 0.1}
merge_method: della
base_model: BASE
parameters: {normalize: true, lambda: 1.1}
dtype: float32
""",
    "della_linear": """
models:
  - model: MATH
    parameters: {weight: 0.6}
  - model: CODE
    parameters: {weight: 0.4}
merge_method: della_linear
base_model: BASE
parameters: {density: 0.5, epsilon: 0.15}
dtype: float32
""",
    "arcee_fusion": """
models: [{model: BASE}, {model: MATH}]
merge_method: arcee_fusion
base_model: BASE
dtype: float32
""",
    "passthrough-of-slices": """
slices:
  - sources: [{model: MATH, layer_range: [0, 2]}]
  - sources: [{model: CODE, layer_range: [1, 2]}]
  - sources:
      - model: CODE
        layer_range: [0, 2]
        parameters:
          scale:
            - filter: o_proj
              value: 0.0
            - filter: down_proj
              value: [0.5, 0.25]
            - value: 1.0
merge_method: passthrough
dtype: float32
""",
    "slerp-of-slices": """
slices:
  - sources:
      - model: MATH
        layer_range: [0, 2]
      - model: CODE
        layer_range: [0, 2]
merge_method: slerp
base_model: MATH
parameters:
  t:
    - filter: self_attn
      value: [0, 0.5]
    - filter: mlp
      value: [1, 0.5]
    - value: 0.5
dtype: float32
""",
    "ties-of-slices": """
slices:
  - sources:
      - {model: BASE, layer_range: [0, 1]}
      - {model: MATH, layer_range: [0, 1], parameters: {density: 0.5, weight: 0.4}}
      - {model: CODE, layer_range: [1, 2], parameters: {weight: 0.9}}
    parameters: {density: 0.25}
  - sources:
      - {model: MATH, layer_range: [0, 2], parameters: {weight: [0.1, 0.6]}}
      - {model: BASE, layer_range: [0, 2]}
      - {model: TRANSLATION, layer_range: [0, 2], parameters: {weight: 0.4}}
merge_method: ties
base_model: BASE
parameters: {density: 0.75, normalize: true}
dtype: float32
""",
    "linear-of-slices": """
slices:
  - sources:
      - {model: MATH, layer_range: [0, 1], parameters: {weight: 0.4}}
      - {model: CODE, layer_range: [1, 2], parameters: {weight: 0.9}}
  - sources:
      - {model: TRANSLATION, layer_range: [1, 2], parameters: {weight: 0.5}}
      - {model: BASE, layer_range: [0, 1], parameters: {weight: 0.5}}
merge_method: linear
dtype: float32
""",
    # Those of mergekit's folder of examples, by their names there, with these models for theirs and 2 layers for 40.
    "linear.yml": """
models:
  - {model: MATH, parameters: {weight: 1.0}}
  - {model: CODE, parameters: {weight: 0.3}}
  - {model: TRANSLATION, parameters: {weight: 0.5}}
merge_method: linear
dtype: float16
""",
    "gradient-slerp.yml": """
slices:
  - sources:
      - model: MATH
        layer_range: [0, 2]
      - model: CODE
        layer_range: [0, 2]
merge_method: slerp
base_model: MATH
parameters:
  t:
    - filter: self_attn
      value: [0, 0.5, 0.3, 0.7, 1]
    - filter: mlp
      value: [1, 0.5, 0.7, 0.3, 0]
    - value: 0.5 # fallback for rest of tensors
dtype: float16
""",
    "orcamini-platy-44layer.yml": """
slices:
  - sources:
    - model: MATH
      layer_range: [0, 2]
  - sources:
    - model: CODE
      layer_range: [1, 2]
merge_method: passthrough
dtype: float16
""",
    "ties.yml": """
models:
  - model: MATH
    parameters:
      density: [1, 0.75, 0.25] # density gradient
      weight: 1.0
  - model: CODE
    parameters:
      density: 0.5
      weight: [0, 0.3, 0.7, 1] # weight gradient
  - model: TRANSLATION
    parameters:
      density: 0.25
      weight:
        - filter: mlp
          value: 0.5
        - value: 0
merge_method: ties
base_model: BASE
parameters:
  normalize: true
  int8_mask: true
dtype: float16
""",
    "bio-merge.yml": """
models:
  - model: MATH
    parameters:
      density: 0.5
      weight: 0.5
  - model: CODE
    parameters:
      density: 0.5
      weight: 0.5
merge_method: ties
base_model: BASE
parameters:
  normalize: false
  int8_mask: true
dtype: float16
""",
    "arcee_fusion.yml": """
models:
  - model: MATH
  - model: CODE
merge_method: arcee_fusion
base_model: MATH
dtype: bfloat16
""",
    "mega.yml": """
slices:
  - sources:
      - model: MATH
        layer_range: [0, 2]
      - model: CODE
        layer_range: [0, 2]
merge_method: slerp
base_model: MATH
parameters:
  t:
    - filter: self_attn
      value: [0, 0.5, 0.3, 0.7, 1]
    - filter: mlp
      value: [1, 0.5, 0.7, 0.3, 0]
    - value: 0.5 # fallback for rest of tensors
dtype: float16
name: gradient-slerp
---
models:
  - model: gradient-slerp
    parameters:
      density: [1, 0.7, 0.1] # density gradient
      weight: 1.0
  - model: TRANSLATION
    parameters:
      density: 0.33
      weight:
        - filter: mlp
          value: 0.5
        - value: 0
merge_method: ties
base_model: BASE
parameters:
  normalize: true
  int8_mask: true
dtype: float16
name: gradient-slerp-ties
""",
    # That of its guide to several stages.
    "multimerge": """
name: first-merge
merge_method: linear
models:
  - model: BASE
  - model: MATH
parameters:
  weight: 0.5
---
name: second-merge
merge_method: slerp
base_model: first-merge  # Reference previous merge
models:
  - model: CODE
parameters:
  t: 0.5
---
# Final merge (no name)
merge_method: dare_ties
base_model: BASE
models:
  - model: second-merge
    parameters:
      density: 0.6
      weight: 0.5
  - model: TRANSLATION
    parameters:
      density: 0.8
      weight: 0.5
""",
}

# What of an example is not mergekit's, and why; of all others every tensor is.
_GRADIENT = (
    "but for the final norm, which has a gradient's end here, as it follows the last layer, and its start in mergekit"
)
_DRAWN = "other entries are drawn, by the same chances"
DIFFERENT = {
    **dict.fromkeys(("ties", "ties-of-slices", "ties.yml"), _GRADIENT),
    "mega.yml": f"{_GRADIENT}, and an entry more that is kept of a tensor: a density is rounded up here, there down",
    "bio-merge.yml": "with `trim: tensor`; without it the whole model is trimmed, as by TIES' authors",
    **dict.fromkeys(("dare_linear", "dare_ties"), f"{_DRAWN}; what is kept is divided by the density, exactly"),
    **dict.fromkeys(
        ("della", "della_linear"),
        f"{_DRAWN}; what is kept is divided by its own chance, as in the paper, and in mergekit by one factor for all",
    ),
    "multimerge": f"{_DRAWN}, in its last stage",
}
OF_GRADIENTS = [name for name, reason in DIFFERENT.items() if reason.startswith(_GRADIENT)]
DRAWN = [name for name, reason in DIFFERENT.items() if reason.startswith(_DRAWN)]
