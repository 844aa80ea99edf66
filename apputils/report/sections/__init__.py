"""The sections of the report, one file each; apputils/report/section_list.py orders them."""
