"""An If that always takes the same branch is that branch; one whose condition is an input stays."""


def test_the_branch_that_is_taken_becomes_part_of_the_graph(becomes) -> None:
    before = """(%x: float32[2, 3]) {
      const %yes: bool[] = true
      %a: float32[2, 3] = Relu(%x)
      %b: float32[2, 3], %c: float32[3] = If(%yes) {else_branch = graph "no"() {
        %n: float32[2, 3] = Neg(%a)
        const %zeros: float32[3] = [0, 0, 0]
        return n = %n, zeros = %zeros
      }, then_branch = graph "yes"() {
        const %half: float32[3] = [0.5, 0.5, 0.5]
        %m: float32[2, 3] = Mul(%a, %half)
        return m = %m, half = %half
      }}
      %d: float32[2, 3] = Add(%b, %c)
      return d = %d, e = %b
    }"""
    after = """(%x: float32[2, 3]) {
      const %yes: bool[] = true
      const %half: float32[3] = [0.5, 0.5, 0.5]
      %a: float32[2, 3] = Relu(%x)
      %m: float32[2, 3] = Mul(%a, %half)
      %d: float32[2, 3] = Add(%m, %half)
      return d = %d, e = %m
    }"""
    assert becomes("drop-dead-branches", before, after).counts == {"branch": 1}


def test_one_inside_another_goes_first_and_types_become_those_of_the_branch(becomes) -> None:
    before = """(%x: float32[2, 3], %p: bool[]) {
      const %no: bool[] = false
      const %off: bool[] = false
      %y: float32[u_z__844b2d1ecb_0, 3] = If(%no) {else_branch = graph "outer"() {
        %z: float32[i_s__cfbf0f7f7a_0, 3] = If(%p) {else_branch = graph "e"() {
          %s: float32[4, 3] = Concat(%x, %x) {axis = 0}
          return s = %s
        }, then_branch = graph "t"() {
          %i: float32[2, 3] = If(%off) {else_branch = graph "ie"() {
            %r: float32[2, 3] = Relu(%x)
            return r = %r
          }, then_branch = graph "it"() {
            %q: float32[2, 3] = Neg(%x)
            return q = %q
          }}
          return i = %i
        }}
        return z = %z
      }, then_branch = graph "never"() {
        %u: float32[2, 3] = Exp(%x)
        return u = %u
      }}
      return y = %y
    }"""
    after = """(%x: float32[2, 3], %p: bool[]) {
      const %no: bool[] = false
      const %off: bool[] = false
      %z: float32[r_s__1251333e00_0, 3] = If(%p) {else_branch = graph "e"() {
        %s: float32[4, 3] = Concat(%x, %x) {axis = 0}
        return s = %s
      }, then_branch = graph "t"() {
        %r: float32[2, 3] = Relu(%x)
        return i = %r
      }}
      return y = %z
    }"""
    assert becomes("drop-dead-branches", before, after).counts == {"branch": 2}


def test_a_condition_that_sizes_tell_is_known_and_so_are_those_that_hang_on_what_is_left(becomes) -> None:
    before = """(%x: float32[2, 3]) {
      const %two: int64[] = 2
      const %axes: int64[1] = [0]
      %rows: int64[] = Size(%x)
      %many: bool[] = Cast(%rows) {to = 9}
      %few: bool[] = Not(%many)
      %y: float32[...] = If(%few) {else_branch = graph "no"() {
        %n: float32[2, 3] = Neg(%x)
        return n = %n
      }, then_branch = graph "yes"() {
        %u: float32[1, 2, 3] = Unsqueeze(%x, %axes)
        return u = %u
      }}
      %shape: int64[y__82dd69e715_0] = Shape(%y)
      %rank: int64[] = Size(%shape)
      %flat: bool[] = Equal(%rank, %two)
      %z: float32[...] = If(%flat) {else_branch = graph "deep"() {
        %d: float32[...] = Relu(%y)
        return d = %d
      }, then_branch = graph "flat"() {
        %e: float32[...] = Exp(%y)
        return e = %e
      }}
      return z = %z
    }"""
    after = """(%x: float32[2, 3]) {
      const %two: int64[] = 2
      const %axes: int64[1] = [0]
      %rows: int64[] = Size(%x)
      %many: bool[] = Cast(%rows) {to = 9}
      %few: bool[] = Not(%many)
      %n: float32[2, 3] = Neg(%x)
      %shape: int64[2] = Shape(%n)
      %rank: int64[] = Size(%shape)
      %flat: bool[] = Equal(%rank, %two)
      %e: float32[2, 3] = Exp(%n)
      return z = %e
    }"""
    assert becomes("drop-dead-branches", before, after).counts == {"branch": 2}


def test_both_stay_where_an_input_tells(stays) -> None:
    stays(
        "drop-dead-branches",
        """(%x: float32[2], %p: bool[]) {
          %y: float32[2] = If(%p) {else_branch = graph "no"() {
            %n: float32[2] = Neg(%x)
            return n = %n
          }, then_branch = graph "yes"() {
            %r: float32[2] = Relu(%x)
            return r = %r
          }}
          return y = %y
        }""",
    )
