# Forwards to dev.py, which sets everything up; it works without make too.
.PHONY: demo test check bench
demo test check bench:
	@python3 dev.py $@ $(ARGS)
