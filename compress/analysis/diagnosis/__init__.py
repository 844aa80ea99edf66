"""Why a quantized network lost: layer by layer, with the cause in words and the remedy."""
