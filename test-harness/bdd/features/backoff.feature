Feature: Backoff
  An engine that ends by itself is started again after 250 ms, 500 ms, 1 s and so on.

  Scenario: Each start waits longer than the one before
    Given a pool "crashy" whose engine exits with 3 when it starts
    When the pool "crashy" is started
    Then "crashy" is started 4 times, each time after a longer wait
