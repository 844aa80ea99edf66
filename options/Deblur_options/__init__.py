"""Options of deblurring (`--optform=Deblur`)."""
