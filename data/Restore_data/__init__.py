"""Restoration: images that are degraded by noise, JPEG, blur, down-sampling, or code of one's own."""
