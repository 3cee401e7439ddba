"""What an attack is written as."""


class Case:
    def __init__(self, run, item, name, role, seconds, **more):
        self.run, self.item, self.name, self.role, self.seconds = run, item, name, role, seconds
        self.settings = more.pop("settings", {})
        self.shell = more.pop("shell", "true")
        # On a server of its own.
        self.fresh = more.pop("fresh", False)
        # MiB that it may cost, where it is not what connections may.
        self.grown = more.pop("grown", None)
        self.calm = more.pop("calm", 10)
        # Whether a sample of the attacks has it.
        self.in_sample = more.pop("in_sample", True)
        self.p99 = more.pop("p99", 0.5)
        assert not more, more


# So many of the same kind are enough for a sample: those that broke something once stand first.
IN_SAMPLE = 2


class Cases(list):
    """Those of a file."""

    def of(self, item, name, role="none", seconds=6, **more):
        def note(run):
            self.append(Case(run, item, name, role, seconds, **more))
            return run

        return note

    def each(self, item, name, variants, seconds=6, **more):
        """The same for each of (what it is called, role, arguments)."""

        def note(run):
            for place, (what, role, *arguments) in enumerate(variants):
                def one(attack, arguments=arguments):
                    return run(attack, *arguments)

                in_sample = place < IN_SAMPLE
                self.append(Case(one, item, name.format(what), role, seconds, in_sample=in_sample, **more))
            return run

        return note
