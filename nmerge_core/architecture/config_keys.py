"""The keys of config.json that are read here, by every name that families of models have for them."""

TEXT = "text_config"  # of a model of several towers: the part of the one that writes
TOWERS = (TEXT, "vision_config", "audio_config")
WIDTHS = ("hidden_size", "d_model", "n_embd", "dim")
LAYERS = ("num_hidden_layers", "num_layers", "n_layer", "n_layers")
DECODER_LAYERS = ("num_decoder_layers", "decoder_layers")  # where the encoder has a number of its own
HEADS = ("num_attention_heads", "num_heads", "n_head", "n_heads")
KV_HEADS = "num_key_value_heads"
VOCABULARY = "vocab_size"
ACTIVE_EXPERTS = "num_experts_per_tok"
ACTIVATIONS = ("hidden_act", "hidden_activation", "activation_function", "feed_forward_proj")
QUANTISATION = "quantization_config"
WEIGHTS_FILE = "transformers_weights"  # the file of the weights, where it is not model.safetensors
OWN_CODE = "auto_map"  # the classes that a checkpoint brings along as Python files
